#!/bin/sh
# The laws of tests/laws on ref alone, with a model that remembers more than its cache.
KVDIFF_SIDES=$BUILD/sides exec "$BUILD/tests/laws/laws" ref nano-b:
