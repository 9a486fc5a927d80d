#!/bin/sh
# Every policy and storage of the reference on SmolLM2.
exec "$BUILD/tests/golden/smollm2_policies" ref
