#!/bin/sh
# Published windows on the reference.
exec "$BUILD/tests/golden/xwindow" ref
