#!/bin/sh
# The insertion rule of cascade alone, on the reference.
exec "$BUILD/tests/golden/cascade" ref
