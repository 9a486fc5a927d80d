#!/bin/sh
# The laws of tests/laws on ref alone.
KVDIFF_SIDES=$BUILD/sides exec "$BUILD/tests/laws/laws" ref
