# ngx_lunary_module: `make help` says what there is.
#
# Nothing is written outside build/ (but by `make install`).  The rules are in
# the order of a newcomer's day: build, try, test, measure, install.

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS   += --no-builtin-rules

BUILD     ?= build
override BUILD := $(abspath $(BUILD))

# the nginx to build for: empty is Debian's, else a source tree
NGINX_SRC ?=
# ./configure arguments for such a tree, beside --add-dynamic-module
NGINX_CONF ?=
# more flags for the compiler
LUNARY_CFLAGS ?=
# 1: address and undefined behaviour sanitizers, thread: that for threads
# (both want NGINX_SRC)
SAN       ?=
# pytest's arguments: make test T='t/test_identity.py -k session'
T         ?= t
# tests at a time
N         ?= 3
# seconds for one of them
TIMEOUT   ?= $(if $(NGINX_VALGRIND),1200,$(if $(SAN),900,300))
# compilations at a time
J         ?= $(shell nproc)

SO         = ngx_http_lunary_module.so
MODULE     = $(BUILD)/$(SO)
VERSION   := $(shell sed -n 's/^\#\# \[\{0,1\}\([0-9][0-9.]*\).*/\1/p' CHANGELOG.md | head -n 1)
CFLAGS_DEBIAN = -g -O2 -fstack-protector-strong -Wformat \
                -Werror=format-security -fPIC -D_FORTIFY_SOURCE=2


# --- which nginx -----------------------------------------------------------

ifeq ($(NGINX_SRC),)

SRC        = /usr/share/nginx/src
ID         = debian
GROUP      = build
NGINX_BIN ?= $(shell PATH=$$PATH:/usr/sbin command -v nginx)
IDENTITY   = $(shell dpkg-query -W nginx-dev 2>/dev/null)
CONFIGURE  = . ./conf_flags; set -- "$${NGX_CONF_FLAGS[@]}"; \
             ccopt="$(CFLAGS_DEBIAN)"; ldopt="-Wl,-z,relro -Wl,-z,now -fPIC"
TARGET     = modules

else

SRC       := $(abspath $(NGINX_SRC))
ID        := $(shell sed -n 's/^.define NGINX_VERSION  *"\(.*\)"/\1/p' \
                     $(SRC)/src/core/nginx.h 2>/dev/null)
ifeq ($(ID),)
$(error NGINX_SRC=$(NGINX_SRC) is no nginx source tree)
endif
GROUP      = tree
NGINX_BIN  = $(TREE)/objs/nginx
IDENTITY   = $(SRC)
CONFIGURE  = set -- --with-compat --with-debug --with-threads \
                 --with-http_ssl_module --with-http_v2_module \
                 --with-http_realip_module --with-http_auth_request_module \
                 --with-http_addition_module --with-http_sub_module \
                 --with-http_gunzip_module --with-http_slice_module \
                 --with-http_stub_status_module $(NGINX_CONF); \
             ccopt="-g -O2"; ldopt=""
TARGET     = build

endif

TREE       = $(BUILD)/nginx-$(ID)$(if $(SAN),$(if $(filter thread,$(SAN)),-tsan,-asan))

# clang, because its ignore list leaves nginx's own sources out of the
# undefined behaviour checks; NGX_DEBUG_PALLOC gives each allocation of a pool
# a malloc() of its own, so that the address sanitizer sees its bounds
ifneq ($(SAN),)
CC         = clang
SAN_FLAGS  = -fsanitize=address,undefined -fno-sanitize-recover=undefined \
             -fsanitize-ignorelist=$(CURDIR)/t/harness/ubsan.ignore
CONFIGURE += ; ccopt="-g -O1 -fno-omit-frame-pointer $(SAN_FLAGS) \
                      -DNGX_DEBUG_PALLOC=1"; \
             ldopt="-fsanitize=address,undefined"
ifeq ($(SAN),thread)
CONFIGURE += ; ccopt="-g -O1 -fno-omit-frame-pointer -fsanitize=thread"; \
             ldopt="-fsanitize=thread"
endif
endif

SOURCES   := $(sort $(shell find ngx_lunary_module -name '*.[ch]'))


.PHONY: all
all: module

.PHONY: help
help:           ## this list
	@awk 'BEGIN { FS = ":.*## " }                                         \
	      /^##@/ { printf "\n%s\n", substr($$0, 5); next }                \
	      /^[a-z0-9-]+:.*## / { sub(/:.*/, "", $$1);                         \
	                         printf "  make %-18s %s\n", $$1, $$2 }'      \
	      $(MAKEFILE_LIST)
	@echo
	@echo 'Variables:'
	@echo '  NGINX_SRC=DIR       for that nginx source tree (1.22 or newer)'
	@echo '  BUILD=DIR           where everything is built (build)'
	@echo '  LUNARY_CFLAGS=...   more compiler flags'
	@echo "  T='t/test_x.py -k y'  these tests only"


##@ Building

.PHONY: module
module: deps-build  ## build/ngx_http_lunary_module.so, for Debian's nginx or NGINX_SRC=DIR
	@mkdir -p $(BUILD)
	@flock $(BUILD)/.lock $(MAKE) --no-print-directory .module

# a new file takes the old one's place: a running nginx has that mapped
.PHONY: .module
.module: $(TREE)/objs/Makefile
	@$(MAKE) --no-print-directory $(if $(V),,-s) -j$(J) -C $(TREE) \
	     -f objs/Makefile $(TARGET)
	@if nm -D --undefined-only $(TREE)/objs/$(SO) | grep lunary_; \
	 then echo "$(SO) lacks these functions" >&2; exit 1; fi
	@mkdir -p $(dir $(MODULE)); \
	 cmp -s $(TREE)/objs/$(SO) $(MODULE) \
	    || { cp $(TREE)/objs/$(SO) $(MODULE).new; \
	         mv $(MODULE).new $(MODULE); \
	         echo "built $(MODULE) for nginx $(ID)"; }

.PHONY: worker
worker:         ## build/lunary-worker, which reads the stream
	@CC="$(CC)" .ci/deps check worker
	@mkdir -p $(BUILD)
	@flock $(BUILD)/.worker-lock $(MAKE) --no-print-directory -j$(J) \
	    -C redis/worker BUILD=$(BUILD) $(if $(SAN),SAN=1)

.PHONY: prices
prices: venv    ## refreshes redis/prices from the genai-prices package
	@$(BUILD)/venv/bin/pip install -q --upgrade genai-prices
	@$(BUILD)/venv/bin/python redis/prices/refresh.py

.PHONY: deps-build
deps-build:
	@CC="$(CC)" .ci/deps check $(GROUP)

.PHONY: FORCE
FORCE:

# written anew only where it says something else, so that it can be depended on
define write_if_changed
	@mkdir -p $(@D); printf '%s\n' $(1) > $@.new; \
	 if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi
endef

$(TREE)/.identity: FORCE
	$(call write_if_changed,'$(ID) $(IDENTITY)')

$(TREE)/.inputs: FORCE
	$(call write_if_changed,'$(CC) $(SAN) $(NGINX_CONF) $(LUNARY_CFLAGS)' $(SOURCES))

$(TREE)/.copied: $(TREE)/.identity
	@echo "copying nginx ($(ID)) to $(TREE)"
	@rm -rf $(TREE)/objs
	@tar -C $(SRC)/ --exclude=./objs --exclude=./.git --exclude=./debian \
	     --exclude=./Makefile -chf - . | tar -C $(TREE) -xf -
	@[ -e $(TREE)/configure ] || cp $(TREE)/auto/configure $(TREE)/configure
	@touch $@

# configure writes its headers anew each time, which would compile all of
# nginx: those that say the same keep their time.  What was compiled with other
# flags, or linked in another way, goes: no rule of nginx's would notice
$(TREE)/objs/Makefile: config ngx_lunary_module/exports.map \
                       $(TREE)/.copied $(TREE)/.inputs
	@echo "configuring nginx ($(ID))"
	@cd $(TREE); \
	 rm -rf .kept; mkdir -p objs .kept; \
	 cp -p objs/*.h objs/*.c .kept/ 2>/dev/null || true; \
	 cp objs/Makefile .before 2>/dev/null || : > .before; \
	 $(CONFIGURE); \
	 LUNARY_CFLAGS="$(LUNARY_CFLAGS)" ./configure "$$@" \
	     --add-dynamic-module=$(CURDIR) --with-cc=$(CC) \
	     --with-cc-opt="$$ccopt" --with-ld-opt="$$ldopt" > configure.log 2>&1 \
	 || { tail -n 12 configure.log >&2; exit 1; }; \
	 for f in .kept/*; do \
	     g=objs/$${f#.kept/}; \
	     if [ -e $$f ] && cmp -s $$f $$g; then cp -p $$f $$g; fi; \
	 done; rm -rf .kept; \
	 [ "$$(grep '^CFLAGS' .before)" = "$$(grep '^CFLAGS' objs/Makefile)" ] \
	 || find objs -name '*.o' -delete; \
	 cmp -s .before objs/Makefile || rm -f objs/*.so objs/nginx; \
	 rm .before
	@grep -E 'hiredis|yajl|brotli|zstd' $(TREE)/configure.log || true
	@touch $@

# Debian's nginx-dev has headers only; the whole source comes by apt
$(BUILD)/src/bookworm $(BUILD)/src/trixie $(BUILD)/src/sid:
	@.ci/deps install source
	@mkdir -p $(@D)
	@ln -sfn "$$(.ci/nginx-source $(@D) $(@F))" $@

.PHONY: clean
clean:          ## removes build/
	rm -rf $(BUILD)


##@ Trying

.PHONY: demo
demo:           ## installs what is missing, makes real calls, shows who used what
	@.ci/deps install $(GROUP) codecs worker run
	@NGINX_BIN="$$(PATH=$$PATH:/usr/sbin command -v $(or $(NGINX_BIN),nginx))" \
	    NGINX_MODULE=$(MODULE) BUILD=$(BUILD) python3 t/demo/demo.py


##@ Testing

.PHONY: test
test: test-deps ## installs what is missing, builds, runs every test
	@$(MAKE) --no-print-directory check

.PHONY: test-deps
test-deps:
	@.ci/deps install $(GROUP) codecs worker run test

.PHONY: check
check: module worker venv node   ## the tests, with what is installed
	@NGINX_BIN=$(NGINX_BIN) NGINX_MODULE=$(MODULE) BUILD=$(BUILD) \
	    $(BUILD)/venv/bin/python -m pytest -c t/pytest.ini -n $(N) \
	    --timeout=$(TIMEOUT) $(T)

.PHONY: check-asan
check-asan: test-deps $(BUILD)/src/bookworm  ## the tests on a build with address and undefined behaviour sanitizers
	@$(MAKE) --no-print-directory check SAN=1 BUILD=$(BUILD) \
	    NGINX_SRC=$(or $(NGINX_SRC),$(BUILD)/src/bookworm) \
	    MODULE=$(BUILD)/asan/$(SO)

# what the outbox shares with its thread; memory is no one's own under it
.PHONY: check-tsan
check-tsan: test-deps venv $(BUILD)/src/bookworm  ## the outbox's tests on a build with the thread sanitizer
	@$(MAKE) --no-print-directory module SAN=thread BUILD=$(BUILD) \
	    NGINX_SRC=$(or $(NGINX_SRC),$(BUILD)/src/bookworm) \
	    MODULE=$(BUILD)/tsan/$(SO)
	@NGINX_BIN=$$(ls -d $(BUILD)/nginx-*-tsan/objs/nginx | tail -n 1) \
	    NGINX_MODULE=$(BUILD)/tsan/$(SO) BUILD=$(BUILD) \
	    $(BUILD)/venv/bin/python -m pytest -c t/pytest.ini -n $(N) \
	    -k 'not memory' t/test_outbox*.py t/test_spool_files.py

# needs Debian's gcc-aarch64-linux-gnu and qemu-user, and with the architecture
# added zlib1g-dev:arm64 libcmocka-dev:arm64 libbrotli-dev:arm64 libzstd-dev:arm64
.PHONY: check-arm64
check-arm64:    ## the unit tests built for arm64, under qemu
	@$(MAKE) --no-print-directory -s -j$(J) -C t/unit BUILD=$(BUILD)/unit-arm64 \
	    CC=aarch64-linux-gnu-gcc CFLAGS='-O2 -g -DBIG=1048576'
	@for t in t/unit/test_*.c; do \
	    t=$$(basename $$t .c); echo $$t; \
	    qemu-aarch64 -L /usr/aarch64-linux-gnu $(BUILD)/unit-arm64/$$t || exit 1; \
	done

.PHONY: valgrind
valgrind: test-deps  ## the tests with nginx's workers under valgrind (slow)
	@.ci/deps install valgrind
	@NGINX_VALGRIND=1 $(MAKE) --no-print-directory check T='$(T) -m "not slow and not soak"'

.PHONY: soak
soak: test-deps ## the long tests: of faults, and of memory after a million calls
	@$(MAKE) --no-print-directory check T='$(T) -m soak' N=1

.PHONY: nginx-tests
nginx-tests: module ## nginx's own suite (SUITE=DIR of it) without the module and with it on
	@NGINX_BIN=$(NGINX_BIN) NGINX_MODULE=$(MODULE) BUILD=$(BUILD) \
	    t/nginx-tests/run $(SUITE)

.PHONY: fuzz
fuzz:           ## each libFuzzer target for SECONDS=60
	@.ci/deps install test
	@$(MAKE) --no-print-directory -C t/fuzz run SECONDS=$(or $(SECONDS),60) BUILD=$(BUILD)/fuzz

.PHONY: lint
lint: lint-style $(TREE)/objs/Makefile  ## style of every file, then static analysis
	@.ci/deps install lint
	@python3 t/lint.py --analyse $(TREE)

.PHONY: lint-style
lint-style:     ## the cheap part of it
	@python3 t/lint.py

.PHONY: venv
venv: $(BUILD)/venv/.done

$(BUILD)/venv/.done: t/requirements.txt
	@echo "python packages into $(BUILD)/venv"
	@python3 -m venv $(BUILD)/venv
	@$(BUILD)/venv/bin/pip install -q --disable-pip-version-check -r $<
	@touch $@

.PHONY: node
node: $(BUILD)/node/.done

$(BUILD)/node/.done: t/package.json t/package-lock.json
	@echo "node packages into $(BUILD)/node"
	@mkdir -p $(BUILD)/node
	@cp t/package.json t/package-lock.json $(BUILD)/node/
	@cd $(BUILD)/node && npm ci --silent --no-audit --no-fund --no-update-notifier
	@touch $@


##@ Measuring

.PHONY: bench
bench: test-deps module venv ## plain nginx beside the module, a table at the end (BENCH=--docs: into docs/)
	@.ci/deps install bench
	@NGINX_BIN=$(NGINX_BIN) NGINX_MODULE=$(MODULE) BUILD=$(BUILD) \
	    $(BUILD)/venv/bin/python t/bench/run.py $(BENCH)

.PHONY: bench-upload
bench-upload: module ## what a client waits while another one uploads 64 MB
	@.ci/deps install bench run
	@NGINX_BIN=$(NGINX_BIN) NGINX_MODULE=$(MODULE) python3 t/bench/upload.py

.PHONY: bench-redis
bench-redis: ## what a run costs Redis, by the script and by MULTI
	@.ci/deps install run
	@python3 t/bench/redis_cost.py

.PHONY: bench-memory
bench-memory: module ## a worker's memory over CALLS=10000000
	@.ci/deps install bench run
	@NGINX_BIN=$(NGINX_BIN) NGINX_MODULE=$(MODULE) \
	    python3 t/bench/memory.py $(CALLS)

# measured is what nginx calls; what only the module itself calls costs nothing
TIMED_CFLAGS = -include $(CURDIR)/t/bench/timed.h -finstrument-functions \
    -finstrument-functions-exclude-file-list=.h,ngx_lunary_module/inspect/,ngx_lunary_module/run/,ngx_lunary_module/stats/,outbox/lunary_

.PHONY: bench-handlers
bench-handlers: ## the longest time in one of the module's handlers (SCENARIOS='upload adopt')
	@.ci/deps install bench
	@[ $(BUILD)/timed/$(SO) -nt t/bench/timed.h ] \
	    || rm -rf $(BUILD)/timed/nginx-*/objs/addon
	@$(MAKE) --no-print-directory module BUILD=$(BUILD)/timed CC=gcc \
	    LUNARY_CFLAGS='$(TIMED_CFLAGS)'
	@NGINX_BIN=$(NGINX_BIN) NGINX_MODULE=$(BUILD)/timed/$(SO) \
	    python3 t/bench/handlers.py $(SCENARIOS)

.PHONY: bench-instructions
bench-instructions: ## instructions a call, compared with the committed figures
	@.ci/deps install valgrind
	@python3 t/bench/instructions.py


##@ Installing

DESTDIR    ?=
prefix     ?= /usr
modulesdir ?= /usr/lib/nginx/modules
docdir     ?= $(prefix)/share/doc/ngx-lunary-module
mandir     ?= $(prefix)/share/man
unitdir    ?= /usr/lib/systemd/system

# the folders of the documentation stay as they are here: its links lead on
DOCS = README.md CHANGELOG.md SECURITY.md LICENSE $(wildcard docs/*.md \
       docs/*.svg docs/*.yml docs/examples/*.conf redis/schema/*.json \
       redis/examples/reader.* redis/systemd/worker.conf)

.PHONY: install
install: module worker ## module, worker, documentation, example configurations (DESTDIR=)
	install -d $(DESTDIR)$(modulesdir) $(DESTDIR)$(docdir) \
	    $(DESTDIR)/usr/share/nginx/modules-available \
	    $(DESTDIR)$(prefix)/bin $(DESTDIR)$(mandir)/man1 \
	    $(DESTDIR)$(unitdir)
	install -m 644 $(MODULE) $(DESTDIR)$(modulesdir)/
	echo 'load_module modules/$(SO);' \
	    > $(DESTDIR)/usr/share/nginx/modules-available/mod-http-lunary.conf
	install -m 755 $(BUILD)/lunary-worker $(DESTDIR)$(prefix)/bin/
	install -m 644 redis/man/lunary-worker.1 $(DESTDIR)$(mandir)/man1/
	for f in $(notdir $(wildcard redis/systemd/*.service)); do \
	    sed 's|/usr/bin/lunary-worker|$(prefix)/bin/lunary-worker|' \
	        redis/systemd/$$f > $(DESTDIR)$(unitdir)/$$f; \
	    chmod 644 $(DESTDIR)$(unitdir)/$$f; \
	done
	for f in $(DOCS); do \
	    install -D -m 644 $$f $(DESTDIR)$(docdir)/$$f; \
	done
	ln -sfn docs/examples $(DESTDIR)$(docdir)/examples
