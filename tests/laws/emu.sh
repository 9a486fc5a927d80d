#!/bin/sh
# The laws of tests/laws on emu alone.
KVDIFF_SIDES=$BUILD/sides exec "$BUILD/tests/laws/laws" emu
