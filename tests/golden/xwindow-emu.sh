#!/bin/sh
# Published windows on the host SIMT layer.
KVDIFF_SIDES=$BUILD/sides exec "$BUILD/tests/golden/xwindow" emu
