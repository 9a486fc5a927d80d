#!/bin/sh
# SmolLM2 on the reference, the text beyond its trained context included.
exec "$BUILD/tests/golden/smollm2" --allow-long
