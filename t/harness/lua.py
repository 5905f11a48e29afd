"""Debian's Lua module for nginx, where it is installed and fits."""

import pathlib

import pytest

from harness import NGINX_BIN

_MODULES = pathlib.Path("/usr/lib/nginx/modules")

# in the order in which nginx is to load them
LUA = [_MODULES / "ndk_http_module.so", _MODULES / "ngx_http_lua_module.so"]

# it loads into the nginx that it was built for, and into no other
HAS_LUA = (NGINX_BIN == "/usr/sbin/nginx" and all(p.exists() for p in LUA))
WHY_NOT = "needs Debian's nginx with libnginx-mod-http-lua"

needs_lua = pytest.mark.skipif(not HAS_LUA, reason=WHY_NOT)
