# What the Makefiles of unit/, tools/ and fuzz/ share: the sources of the rooms
# that need no nginx, what they are compiled and linked with.
#
# Gives ROOT, SRC, SRCS, HDRS, LIBS and the needed CFLAGS.

ROOT   := $(abspath $(dir $(lastword $(MAKEFILE_LIST)))..)
SRC    := $(ROOT)/ngx_lunary_module

override CFLAGS += -std=gnu11 -Wall -Wextra -Werror -I$(SRC) -I$(SRC)/inspect

ifneq ($(SAN),)
override CFLAGS += -fsanitize=address,undefined -fno-sanitize-recover=all \
                   -fno-omit-frame-pointer
endif

LIBS   := -lz

# br and zstd where their headers are
have = $(shell printf '\#include <$(1)>\n' | $(CC) -E - >/dev/null 2>&1 \
               && echo 1)

ifeq ($(call have,brotli/decode.h),1)
override CFLAGS += -DLUNARY_HAVE_BROTLI=1
LIBS   += -lbrotlidec
endif

ifeq ($(call have,zstd.h),1)
override CFLAGS += -DLUNARY_HAVE_ZSTD=1
LIBS   += -lzstd
endif

SRCS   := $(shell find $(SRC)/inspect $(SRC)/run -name '*.c' | LC_ALL=C sort)
HDRS   := $(shell find $(SRC)/inspect $(SRC)/run -name '*.h')
