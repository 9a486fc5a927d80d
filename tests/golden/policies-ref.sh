#!/bin/sh
# The tiny model's policies on the reference.
exec "$BUILD/tests/golden/policies" ref
