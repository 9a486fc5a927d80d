# policies.sh - what the matrix covers; sourced by matrix and short.sh. Needs $KVDIFF.
#
# Every selection with the variants that take another path through the code, times every storage likewise. Which pairs
# are legal is asked of the program; caches are small, so that 2,048 tokens wrap around many times.

matrix_selections() {
    cat <<END
full
sliding:cap=256
sliding:cap=256,pos=absolute
sliding:cap=256,pos=saturate
sink:cap=252
cascade:cap=256
cascade:cap=256,eager=0
cascade:cap=256,homog=1,reduce=mean
cascade:cap=256,reduce=mean
cascade:cap=256,reduce=median
cascade:cap=256,select=newest
cascade:cap=256,select=oldest
cascade:cap=256,n=8,beta=0.99
cascade:cap=252,n=1
cascade:cap=256,score=f16
cascade:cap=255,n=3,sinks=0,accept=iplus1
cascade:cap=256,compat=shifted
cascade:cap=256,compat=reversed
cascade:cap=256,compat=strict,score=f16
xwindow:window=64,stride=8,cache=48
xwindow:window=64,stride=8,cache=48,ver=published
xwindow:window=64,stride=64,cache=128,layers=2
xwindow:window=64,stride=64,cache=128,ver=published
xwindow:window=64,stride=24,cache=0
h2o:cap=256
h2o:cap=256,gqa=max,heavy=200
dilated:window=200
dilated:every=3,sinks=0,window=50
snapkv:cap=256,prompt=512
tova:cap=256
pyramid:cap=256,prompt=512
END
}

matrix_storages() {
    cat <<END
f32
f16
bf16
kvarn:tile=32
kvarn:tile=128,tie=rel
kvarn:tile=64,dialect=B,kbits=3,vbits=5
kvarn:tile=32,kbits=8,vbits=8,iters=2
kivi:group=16,residual=32
kivi:bits=4,group=32,residual=64
kivi:bits=3,group=8,residual=128
END
}

# Pairs that go through states of their own (`kvdiff coverage`): steps as long as the cap, prompts below it, budgets that are
# equal or nothing.
matrix_edges() {
    cat <<END
sliding:cap=64
sliding:cap=64,pos=absolute
sliding:cap=64,pos=saturate
snapkv:cap=256,prompt=200
pyramid:cap=256,prompt=200
pyramid:cap=256,prompt=300
pyramid:cap=41,prompt=512
END
}

# Pairs for the model `sharp`, on which scores are equal.
matrix_ties() {
    cat <<END
cascade:cap=32
h2o:cap=32
h2o:cap=32,gqa=max
tova:cap=32
snapkv:cap=48,prompt=64
pyramid:cap=48,prompt=64
END
}

# Lines that have one of the words; all of them without words.
matrix_with() { # WORD...
    while read -r line; do
        [ $# -eq 0 ] && echo "$line"
        for word; do
            case $line in *$word*) echo "$line" && break ;; esac
        done
    done
}

# One legal pair a line.
matrix_pairs() {
    matrix_selections | while read -r selection; do
        matrix_storages | while read -r storage; do
            pair=$selection+$storage
            [ "$storage" = f32 ] && pair=$selection
            "$KVDIFF" policy "$pair" >/dev/null 2>&1 && echo "$pair"
        done
    done
    matrix_edges
}

# Names of selections and storages that the program has and the lists above do not.
matrix_forgotten() {
    "$KVDIFF" policy --format=json | python3 -c '
import json, sys
have = json.load(sys.stdin)
print(*[p["name"] for p in have["selections"] + have["storages"] if p["name"] not in sys.argv[1:]])
' $( (matrix_selections; matrix_storages) | cut -d: -f1)
}
