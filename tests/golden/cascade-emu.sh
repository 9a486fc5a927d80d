#!/bin/sh
# The insertion rule of cascade alone, on the host SIMT layer.
KVDIFF_SIDES=$BUILD/sides exec "$BUILD/tests/golden/cascade" emu
