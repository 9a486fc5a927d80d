#!/bin/sh
# The laws of tests/laws on emu alone, with a model that remembers more than its cache. What it remembers does not depend
# on who is evicted: the slow ones among the policies that choose by scores are left to emu.sh.
KVDIFF_SIDES=$BUILD/sides exec "$BUILD/tests/laws/laws" emu nano-b: -f16 -h2o -tova -snapkv
