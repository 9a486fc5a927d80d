# kvdiff - one makefile for everything. `make help` lists the targets.
#
#   make BUILD=dir   another build folder      make CC=clang CXX=clang++   another compiler
#   make OPT=-O3     another optimisation      make V=1                    show the commands
#   make SAN=address,undefined                 build with sanitizers

BUILD ?= build
OPT   ?= -O2
SAN   ?=
V     ?= 0
CUDA_ARCH ?= sm_90a
ifeq ($(origin CC),default)
CC := gcc
endif
ifeq ($(origin CXX),default)
CXX := g++
endif

Q := $(if $(filter 1,$(V)),,@)
say = $(if $(filter 1,$(V)),,@printf '  %-7s %s\n' '$(1)' '$(2)')

# ---- flags: the contract of docs/numerics.md, section 7 ---------------------------------------
ARCH     := $(shell uname -m)
GCC_ONLY := $(shell $(CC) --version 2>/dev/null | grep -qi clang || echo -fstack-reuse=none)
GXX_ONLY := $(shell $(CXX) --version 2>/dev/null | grep -qi clang || echo -fstack-reuse=none)
EXACT    := -ffp-contract=off -fno-strict-aliasing -fwrapv
BASE     := $(if $(filter x86_64,$(ARCH)),-march=x86-64)
WARN     := -Wall -Wextra -Wshadow -Wpointer-arith -Wdouble-promotion -Wvla $(if $(GCC_ONLY),-Wno-format-truncation) -Werror
CWARN    := $(WARN) -Wstrict-prototypes -Wmissing-prototypes
SANFLAGS := $(if $(SAN),-fsanitize=$(SAN) -fno-omit-frame-pointer -fno-sanitize-recover=all -g)
CFLAGS_ALL   := -std=c11 $(OPT) $(EXACT) $(GCC_ONLY) $(BASE) $(CWARN) $(SANFLAGS) -fPIC -pthread -g1 \
                -D_GNU_SOURCE -I. -I$(BUILD)/gen $(CFLAGS)
CXXFLAGS_ALL := -std=c++17 $(OPT) $(EXACT) $(GXX_ONLY) $(WARN) $(SANFLAGS) -fPIC -pthread -g1 \
                -fvisibility=hidden -D_GNU_SOURCE -I. $(CXXFLAGS)
LDFLAGS_ALL  := $(SANFLAGS) -pthread $(LDFLAGS)
LIBS         := -lsqlite3 -lzstd -lxxhash -ljansson -lcrypto -lm -ldl

AVX2   := -mavx2 -mfma
AVX512 := -mavx512f -mfma
ifneq ($(AVX512_AS_AVX2),)
AVX512 := $(AVX2) -DREF_AVX512_AS_AVX2
CFLAGS_ALL += -DREF_AVX512_AS_AVX2
endif

.SUFFIXES:
.SECONDARY:
.DEFAULT_GOAL := help

# ---- sources ----------------------------------------------------------------------------------
COMMON_SRC   := $(wildcard common/*.c)
CORPUS_SRC   := $(wildcard corpus/*.c)
DIFFTEST_SRC := $(filter-out difftest/vec_metrics.c,$(wildcard difftest/*.c) $(wildcard difftest/ops/*.c))
WORKER_SRC   := $(wildcard difftest/worker/*.c) difftest/side_map.c \
                $(patsubst %,difftest/ops/%.c,schema command expr descriptor descriptor_ops launch module)
REF_SRC      := $(filter-out ref/kernels.c,$(wildcard ref/*.c) $(wildcard ref/policy/*.c) $(wildcard ref/storage/*.c) $(wildcard ref/train/*.c))
BLAS_SRC     := $(wildcard gpu/blas/*.c)
GPU_SRC      := $(wildcard gpu/*.cu) $(wildcard gpu/policy/*.cu) $(wildcard gpu/train/*.cu) $(wildcard gpu/door/*.cu)
SIMT_SRC     := $(filter-out gpu/simt/user.cpp,$(wildcard gpu/simt/*.cpp))
UNIT_SRC     := $(wildcard tests/unit/*.c)

REF_ISA      := scalar $(if $(filter x86_64,$(ARCH)),avx2 avx512)
REF64_ISA    := scalar $(if $(filter x86_64,$(ARCH)),avx2)
METRICS_ISA  := scalar $(if $(filter x86_64,$(ARCH)),avx2)

O := $(BUILD)/obj
COMMON_OBJ   := $(COMMON_SRC:%.c=$(O)/%.o)
CORPUS_OBJ   := $(CORPUS_SRC:%.c=$(O)/%.o)
DIFFTEST_OBJ := $(DIFFTEST_SRC:%.c=$(O)/%.o) $(METRICS_ISA:%=$(O)/difftest/vec_metrics_%.o)
REF_OBJ      := $(REF_SRC:ref/%.c=$(O)/ref/%.o) $(REF_ISA:%=$(O)/ref/kernels_%.o)
REF64_OBJ    := $(patsubst ref/%.c,$(O)/ref64/%.o,$(filter-out ref/weights.c,$(REF_SRC))) $(REF64_ISA:%=$(O)/ref64/kernels_%.o)
BLAS_OBJ     := $(BLAS_SRC:%.c=$(O)/%.o)
EMU_OBJ      := $(GPU_SRC:%.cu=$(O)/emu/%.o) $(SIMT_SRC:%.cpp=$(O)/emu/%.o)

$(O)/%.o: %.c
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) $(CFLAGS_ALL) $(FLAGS_$(subst /,_,$*)) -MMD -MP -c $< -o $@

# The reference is compiled twice: float is the oracle, double the yardstick for rounding.
$(O)/ref/%.o: ref/%.c
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) $(CFLAGS_ALL) -DREF_BITS=32 -MMD -MP -c $< -o $@
$(O)/ref64/%.o: ref/%.c
	@mkdir -p $(@D)
	$(call say,CC64,$<)
	$(Q)$(CC) $(CFLAGS_ALL) -DREF_BITS=64 -MMD -MP -c $< -o $@

# The stack on which gcc 12 finds uses after return is aligned to 32 bytes; its vectors of 64 are not safe there.
NO_FAKE_STACK := $(if $(findstring address,$(SAN)),$(if $(GCC_ONLY),--param asan-use-after-return=0,-fsanitize-address-use-after-return=never))
# Where every forward pass spends its time, sanitizers leave out what looks at locals and at addresses before they are used:
# accumulators stay in registers then, which is the difference between minutes and half an hour. Accesses to memory are checked
# as everywhere. HOT= has all checks.
HOT_CHECKS := -fno-sanitize=bounds,alignment,null,object-size,pointer-overflow
HOT := $(if $(SAN),-O2 $(HOT_CHECKS) $(if $(findstring address,$(SAN)),-fno-sanitize-address-use-after-scope))
ISA_FLAGS_scalar := $(HOT)
ISA_FLAGS_avx2   := $(AVX2) $(HOT)
ISA_FLAGS_avx512 := $(AVX512) $(NO_FAKE_STACK) $(HOT)
define isa_rule
$(O)/ref/kernels_$(1).o: ref/kernels.c
	@mkdir -p $$(@D)
	$$(call say,CC,$$< ($(1)))
	$$(Q)$$(CC) $$(CFLAGS_ALL) $$(ISA_FLAGS_$(1)) -DREF_BITS=32 -DREF_ISA_$(1) -MMD -MP -c $$< -o $$@
$(O)/ref64/kernels_$(1).o: ref/kernels.c
	@mkdir -p $$(@D)
	$$(call say,CC64,$$< ($(1)))
	$$(Q)$$(CC) $$(CFLAGS_ALL) $$(ISA_FLAGS_$(1)) -DREF_BITS=64 -DREF_ISA_$(1) -MMD -MP -c $$< -o $$@
$(O)/difftest/vec_metrics_$(1).o: difftest/vec_metrics.c
	@mkdir -p $$(@D)
	$$(call say,CC,$$< ($(1)))
	$$(Q)$$(CC) $$(CFLAGS_ALL) $$(ISA_FLAGS_$(1)) -DVM_ISA_$(1) -MMD -MP -c $$< -o $$@
endef
$(foreach isa,scalar avx2 avx512,$(eval $(call isa_rule,$(isa))))

# Exact kernels on the CPU: the same .cu text through the host SIMT layer. FMA must be an instruction
# for speed; without it libm's fmaf gives the same bits.
EMU_ISA := $(if $(filter x86_64,$(ARCH)),$(AVX2))
$(O)/emu/%.o: %.cu
	@mkdir -p $(@D)
	$(call say,EMU,$<)
	$(Q)$(CXX) $(CXXFLAGS_ALL) $(EMU_ISA) -x c++ -include gpu/simt/simt.h -MMD -MP -c $< -o $@
$(O)/emu/%.o: %.cpp
	@mkdir -p $(@D)
	$(call say,CXX,$<)
	$(Q)$(CXX) $(CXXFLAGS_ALL) $(EMU_ISA) -MMD -MP -c $< -o $@

# ---- generated sources: SQL and build information ----------------------------------------------
# The folders are prerequisites so that a file that is added or removed counts as a change.
GEN := $(BUILD)/gen

$(GEN)/sql_migrations.h: tools/embed-sql.sh difftest/migrations $(wildcard difftest/migrations/*.sql)
	@mkdir -p $(@D)
	$(call say,GEN,$@)
	$(Q)sh tools/embed-sql.sh migrations difftest/migrations >$@.new && mv $@.new $@
$(GEN)/sql_queries.h: tools/embed-sql.sh difftest/query $(wildcard difftest/query/*.sql)
	@mkdir -p $(@D)
	$(call say,GEN,$@)
	$(Q)sh tools/embed-sql.sh queries difftest/query >$@.new && mv $@.new $@

# Asked every time, written only when something changed.
.PHONY: build-info-now
$(GEN)/build_info.h: build-info-now
	@mkdir -p $(@D)
	$(Q)CC='$(CC)' CFLAGS='$(filter-out -I%,$(CFLAGS_ALL))' NVCC='$(NVCC)' NVCCFLAGS='$(NVCCFLAGS)' \
	    sh tools/build-info.sh $@

$(O)/difftest/migrate.o: $(GEN)/sql_migrations.h
$(O)/difftest/db_query.o: $(GEN)/sql_queries.h
$(O)/difftest/db_machine.o: $(GEN)/build_info.h

# ---- generated sources: corpus text -------------------------------------------------------------
# A C string literal, one line of the book each; no trigraph can arise.
$(BUILD)/gen/book_text.h: corpus/text/book.txt
	@mkdir -p $(@D)
	$(call say,GEN,$@)
	$(Q){ echo 'static const char book_text[] ='; \
	    sed 's/[\\"]/\\&/g; s/??/?\\?/g; s/^/    "/; s/$$/\\n"/' $<; echo '    ;'; } >$@.new && mv $@.new $@

$(O)/corpus/book.o: $(BUILD)/gen/book_text.h

# The assembler reads it; no .d file knows.
$(O)/common/embedded.o: common/embedded/novel.kvm

# ---- archives and programs --------------------------------------------------------------------
LIBCOMMON   := $(BUILD)/libkvcommon.a
LIBREF      := $(BUILD)/libkvref.a
LIBCORPUS   := $(BUILD)/libkvcorpus.a
LIBDIFFTEST := $(BUILD)/libkvdifftest.a
ALL_LIBS    := $(LIBDIFFTEST) $(LIBCORPUS) $(LIBREF) $(LIBCOMMON)

define archive
	$(call say,AR,$@)
	$(Q)rm -f $@ && ar rcs $@ $^
endef
$(LIBCOMMON): $(COMMON_OBJ)
	$(archive)
$(LIBREF): $(REF_OBJ) $(REF64_OBJ)
	$(archive)
$(LIBCORPUS): $(CORPUS_OBJ)
	$(archive)
$(LIBDIFFTEST): $(DIFFTEST_OBJ)
	$(archive)

# ---- gpu: sides that are loaded at run time -----------------------------------------------------
SIDES := $(BUILD)/sides/blas.so $(BUILD)/sides/emu.so

# A fibre is a stack of its own; AddressSanitizer would give each a second one, a fresh mapping per fibre,
# to find uses after return.
$(O)/emu/%.o: EMU_ISA += $(NO_FAKE_STACK)
$(O)/emu/gpu/gemm.o $(O)/emu/gpu/gemv.o: EMU_ISA += $(HOT)
$(BUILD)/sides/emu.so: $(EMU_OBJ) $(LIBCOMMON)
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CXX) -shared -Wl,-z,defs -Wl,--exclude-libs,ALL -o $@ $(EMU_OBJ) $(LIBCOMMON) $(LDFLAGS_ALL) $(LIBS)

# What a candidate's .cu file is linked with where there is no GPU (difftest/ops/build.c).
LIBSIMT := $(BUILD)/libkvsimt.a
$(LIBSIMT): $(SIMT_SRC:%.cpp=$(O)/emu/%.o) $(O)/emu/gpu/simt/user.o $(O)/common/pool.o $(O)/common/status.o
	$(archive)

# cuda.so: the same .cu files. It links the static runtime and never libcuda, so that it loads, and says
# why it cannot run, on a machine without a driver.
comma     := ,
NVCC      ?= $(firstword $(shell command -v nvcc) $(wildcard /usr/local/cuda/bin/nvcc))
NVCC_ARCH := -gencode arch=$(CUDA_ARCH:sm_%=compute_%),code=$(CUDA_ARCH)
NVCC_HOST := -Xcompiler -fPIC,-fvisibility=hidden,-pthread,-Wall,-Wextra,-Werror \
             -Xcompiler -ffp-contract=off,-fno-strict-aliasing,-fwrapv$(GXX_ONLY:%=$(comma)%)
NVCCFLAGS_ALL := -std=c++17 -O3 --fmad=false $(NVCC_ARCH) -Werror all-warnings $(NVCC_HOST) -D_GNU_SOURCE -I. \
                 $(NVCCFLAGS)
CUDA_OBJ  := $(GPU_SRC:%.cu=$(O)/cuda/%.o)

$(O)/cuda/%.o: %.cu
	@mkdir -p $(@D)
	$(call say,NVCC,$<)
	$(Q)$(NVCC) -ccbin $(CXX) $(NVCCFLAGS_ALL) -MMD -MP -MF $(@:.o=.d) -c $< -o $@
$(BUILD)/sides/cuda.so: $(CUDA_OBJ) $(LIBCOMMON)
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(NVCC) -ccbin $(CXX) -shared -cudart static $(NVCC_ARCH) -Xlinker -z,defs,--exclude-libs,ALL -o $@ \
	    $(CUDA_OBJ) $(LIBCOMMON) $(SANFLAGS:%=-Xcompiler %) $(LIBS) -lpthread

# The tests of kernels, storages and policies, on a GPU: the same text, compiled by nvcc. Not those about the SIMT layer itself, about
# the options of emu and about its door, whose tensors lie in host memory.
CUDA_TESTS := $(filter-out $(patsubst %,tests/emu/test_%.cpp,simt backend door train_prefetch),$(wildcard tests/emu/test_*.cpp))
CUDA_BIN   := $(CUDA_TESTS:tests/emu/%.cpp=$(BUILD)/tests/cuda/%)
$(O)/cuda/tests/%.o: tests/emu/%.cpp
	@mkdir -p $(@D)
	$(call say,NVCC,$<)
	$(Q)$(NVCC) -ccbin $(CXX) $(NVCCFLAGS_ALL) -x cu -MMD -MP -MF $(@:.o=.d) -c $< -o $@
$(CUDA_BIN): $(BUILD)/tests/cuda/%: $(O)/cuda/tests/%.o $(CUDA_OBJ) $(LIBCOMMON)
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(NVCC) -ccbin $(CXX) -cudart static $(NVCC_ARCH) -o $@ $^ $(SANFLAGS:%=-Xcompiler %) $(LIBS) \
	    -lcmocka -lpthread

.PHONY: cuda-absent cuda-tests gpu-evidence
ifneq ($(NVCC),)
SIDES += $(BUILD)/sides/cuda.so
else
all: cuda-absent
endif
cuda-absent:
	@echo "make: no nvcc in PATH or /usr/local/cuda: going on without cuda.so (NVCC=file names one elsewhere)"
cuda-tests: $(CUDA_BIN)
# What tools/gpu-evidence runs.
.PHONY: gpu-evidence-build
gpu-evidence-build: $(BUILD)/kvdiff $(BUILD)/kvdiff-worker $(BUILD)/sides/emu.so $(BUILD)/sides/cuda.so cuda-tests
gpu-evidence: ## test the CUDA kernels on this machine's GPU and write down the result
	$(Q)BUILD=$(BUILD) NVCC=$(NVCC) tools/gpu-evidence; st=$$?; [ $$st -eq 77 ] || exit $$st

# ---- which branches the op checks take (docs/gpu.md) -----------------------------------------------------------------
# A build of its own, by g++, whose counts gcov can read.
.PHONY: ops-coverage
LEVEL ?= 2
ops-coverage: $(BUILD)/kvdiff $(BUILD)/kvdiff-worker ## which branches of the GPU sources `kvdiff ops` takes; LEVEL=0..3
	$(Q)$(MAKE) --no-print-directory BUILD=$(BUILD)/coverage CC=gcc CXX=g++ OPT=-O0 CFLAGS=-DKV_COUNT_BRANCHES \
	    CXXFLAGS='--coverage -DKV_COUNT_BRANCHES' LDFLAGS=--coverage $(BUILD)/coverage/sides/emu.so
	$(Q)tools/ops-coverage $(BUILD)/kvdiff $(BUILD)/coverage/sides/emu.so $(BUILD)/coverage/obj $(LEVEL)

# ---- planted bugs (docs/mutants.md) ---------------------------------------------------------------
# The sides emu and ref once more, with the bad text of common/mutant.h in them, behind a door that chooses the bug.
# Never part of `make all`. The objects have a folder of their own: nothing that is shipped can pick one up.
MUT   := $(BUILD)/mutants
MUT_O := $(MUT)/obj
MUT_COMMON := $(COMMON_SRC:%.c=$(MUT_O)/%.o)
MUT_REF    := $(patsubst %.c,$(MUT_O)/%.o,$(filter-out ref/train/%,$(REF_SRC))) $(REF_ISA:%=$(MUT_O)/ref/kernels_%.o)
MUT_EMU    := $(GPU_SRC:%.cu=$(MUT_O)/%.o) $(SIMT_SRC:%.cpp=$(MUT_O)/%.o)
MUT_FLAGS  := -DKV_MUTANTS -Dkv_side_entry=mutant_inner_entry -fvisibility=hidden
MUTANT_SIDES := $(MUT)/emu.so $(MUT)/ref.so

$(MUT_O)/common/%.o: common/%.c
	@mkdir -p $(@D)
	$(call say,MUT,$<)
	$(Q)$(CC) $(CFLAGS_ALL) $(MUT_FLAGS) -MMD -MP -c $< -o $@
$(MUT_O)/common/embedded.o: common/embedded/novel.kvm
$(MUT_O)/ref/%.o: ref/%.c
	@mkdir -p $(@D)
	$(call say,MUT,$<)
	$(Q)$(CC) $(CFLAGS_ALL) $(MUT_FLAGS) -DREF_BITS=32 -MMD -MP -c $< -o $@
$(REF_ISA:%=$(MUT_O)/ref/kernels_%.o): $(MUT_O)/ref/kernels_%.o: ref/kernels.c
	@mkdir -p $(@D)
	$(call say,MUT,$< ($*))
	$(Q)$(CC) $(CFLAGS_ALL) $(MUT_FLAGS) $(ISA_FLAGS_$*) -DREF_BITS=32 -DREF_ISA_$* -MMD -MP -c $< -o $@
$(MUT_O)/gpu/%.o: gpu/%.cu
	@mkdir -p $(@D)
	$(call say,MUT,$<)
	$(Q)$(CXX) $(CXXFLAGS_ALL) $(EMU_ISA) $(MUT_FLAGS) -x c++ -include gpu/simt/simt.h -MMD -MP -c $< -o $@
$(MUT_O)/gpu/%.o: gpu/%.cpp
	@mkdir -p $(@D)
	$(call say,MUT,$<)
	$(Q)$(CXX) $(CXXFLAGS_ALL) $(EMU_ISA) $(MUT_FLAGS) -MMD -MP -c $< -o $@
$(MUT_O)/side_emu.o: tests/mutants/side.c
	@mkdir -p $(@D)
	$(call say,MUT,$<)
	$(Q)$(CC) $(CFLAGS_ALL) -DKV_MUTANTS -MMD -MP -c $< -o $@
$(MUT_O)/side_ref.o: tests/mutants/side.c
	@mkdir -p $(@D)
	$(call say,MUT,$< (ref))
	$(Q)$(CC) $(CFLAGS_ALL) -DKV_MUTANTS -DMUTANT_SIDE_REF -MMD -MP -c $< -o $@
$(MUT)/emu.so: $(MUT_EMU) $(MUT_O)/side_emu.o $(MUT_COMMON)
	$(call say,LINK,$@)
	$(Q)$(CXX) -shared -Wl,-z,defs -o $@ $^ $(LDFLAGS_ALL) $(LIBS)
$(MUT)/ref.so: $(MUT_REF) $(MUT_O)/side_ref.o $(MUT_COMMON)
	$(call say,LINK,$@)
	$(Q)$(CC) -shared -Wl,-z,defs -o $@ $^ $(LDFLAGS_ALL) $(LIBS)

# A sample of mechanical changes; the same seed goes on where it was interrupted.
N    ?= 200
SEED ?= 1
.PHONY: mutants mutants-build mutants-mechanical
mutants-mechanical: test-build $(MUT_O)/side_ref.o ## change the sources mechanically, N=200 SEED=1: which changes does nobody notice? (hours)
	$(Q)BUILD=$(BUILD) tools/mutate -n $(N) --seed $(SEED) -j $(JOBS)
mutants-build: $(MUTANT_SIDES) # the two libraries with planted bugs
mutants: $(BUILD)/kvdiff $(MUTANT_SIDES) ## plant bugs, one at a time: the tester must find every one (docs/mutants.md); resumes
	$(Q)$(BUILD)/kvdiff mutate --db=$(MUT)/mutants.db $(if $(T),--only='$(T)')

# ---- the program ----------------------------------------------------------------------------------
# Shared objects export their entry and single operations. OpenBLAS is the Debian package libopenblas-dev.
$(BLAS_OBJ): CFLAGS_ALL += -O3 -fvisibility=hidden
$(O)/gpu/blas/vector.o: CFLAGS_ALL += -ffp-contract=fast
LINK_SIDE = $(Q)mkdir -p $(@D) && $(CC) -shared $(if $(SAN),,-Wl,-z,defs) -Wl,--exclude-libs,ALL -o $@ \
            $(filter %.o,$^) $(filter %.a,$^) $(LDFLAGS_ALL)
$(BUILD)/sides/blas.so: $(BLAS_OBJ) $(LIBCOMMON)
	$(call say,LINK,$@)
	$(LINK_SIDE) -lopenblas $(LIBS)

$(O)/difftest/main.o $(O)/difftest/cmd_info.o: $(GEN)/build_info.h
$(BUILD)/kvdiff: $(O)/difftest/main.o $(ALL_LIBS)
	$(call say,LINK,$@)
	$(Q)$(CC) -o $@ $< -Wl,--start-group $(ALL_LIBS) -Wl,--end-group $(LDFLAGS_ALL) $(LIBS)

# The process that candidates run in: it holds neither the reference nor the tester.
$(BUILD)/kvdiff-worker: $(WORKER_SRC:%.c=$(O)/%.o) $(LIBCOMMON)
	$(call say,LINK,$@)
	$(Q)$(CC) -o $@ $^ $(LDFLAGS_ALL) $(LIBS)

# Sides of tests, most of which must be refused: tests/sides/NAME.c becomes tests/sides/NAME.so.
TEST_SIDES := $(patsubst tests/sides/%.c,$(BUILD)/tests/sides/%.so,$(wildcard tests/sides/*.c))
$(BUILD)/tests/sides/%.so: $(O)/tests/sides/%.o
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CC) -shared -o $@ $< $(LDFLAGS_ALL)

# Candidates of tests: tests/kernels/NAME.c becomes tests/kernels/NAME.so. They see the header alone, and no sanitizer: the worker
# that loads them has none.
TEST_KERNELS := $(patsubst tests/kernels/%.c,$(BUILD)/tests/kernels/%.so,$(wildcard tests/kernels/*.c))
$(BUILD)/tests/kernels/%.so: tests/kernels/%.c tests/kernels/naive.c tests/kernels/tiles.h include/kvdiff_kernel.h
	@mkdir -p $(@D)
	$(call say,CC,$@)
	$(Q)$(CC) -std=c11 -O2 -Wall -Wextra -Werror -ffp-contract=off -fPIC -shared -Wl,-Bsymbolic \
	  $(if $(GCC_ONLY),-fstack-reuse=none) -Iinclude -o $@ $< -lm
test-build test-asan-build: $(TEST_SIDES) $(TEST_KERNELS) $(BUILD)/sides/blas.so
gpu-evidence-build: $(TEST_KERNELS) $(LIBSIMT)

# ---- tests --------------------------------------------------------------------------------------
# Programs: tests/unit/test_*.c and tests/emu/test_*.cpp (other files there are linked into each), and
# tests/fuzz/fuzz_*.c with their driver. Scripts print TAP themselves. T='word word' takes those whose
# path contains one of the words.
T    ?=
JOBS ?= $(shell nproc 2>/dev/null || echo 1)
picked = $(if $(T),$(sort $(foreach t,$(T),$(foreach p,$(1),$(if $(findstring $(t),$(p)),$(p))))),$(1))

UNIT_TEST  := $(wildcard tests/unit/test_*.c)
EMU_TEST   := $(wildcard tests/emu/test_*.cpp)
FUZZ_TEST  := $(wildcard tests/fuzz/fuzz_*.c)
UNIT_AID   := $(patsubst %.c,$(O)/%.o,$(filter-out $(UNIT_TEST),$(UNIT_SRC)))
EMU_AID    := $(patsubst %.cpp,$(O)/emu/%.o,$(filter-out $(EMU_TEST),$(wildcard tests/emu/*.cpp)))
UNIT_BIN   := $(UNIT_TEST:%.c=$(BUILD)/%)
EMU_BIN    := $(EMU_TEST:%.cpp=$(BUILD)/%)
FUZZ_AID   := $(O)/tests/fuzz/driver.o $(O)/tests/unit/gguf_build.o
FUZZ_BIN   := $(FUZZ_TEST:%.c=$(BUILD)/%)
SCRIPTS    := $(sort $(wildcard tests/cli/*.sh tests/cli/*.py tests/ptx/*.sh \
              tests/canary/*.sh tests/layers/*.py tests/golden/cascade-*.sh \
              tests/golden/golf-*.sh tests/golden/policies-*.sh tests/golden/xwindow-*.sh \
              tests/laws/*.sh tests/matrix/*.sh))
# Shared objects that tests load: rules that make them append to TEST_EXTRA.
TEST_EXTRA += $(BUILD)/kvdiff-worker $(LIBSIMT)
TEST_LIBS  ?= $(ALL_LIBS)
LINK_TEST   = $(Q)mkdir -p $(@D) && $(CC) -o $@ $(filter %.o,$^) -Wl,--start-group $(filter %.a,$^) \
              -Wl,--end-group $(LDFLAGS_ALL)

# An archive, so that a test takes only the aids that it names, and needs no more libraries than they do.
UNIT_AIDS  := $(BUILD)/tests/libunitaid.a
$(UNIT_AIDS): $(UNIT_AID)
	@mkdir -p $(@D)
	$(archive)
$(UNIT_BIN): $(BUILD)/tests/unit/%: $(O)/tests/unit/%.o $(UNIT_AIDS) $(TEST_LIBS)
	$(call say,LINK,$@)
	$(LINK_TEST) -lcmocka $(LIBS)
$(FUZZ_BIN): $(BUILD)/tests/fuzz/%: $(O)/tests/fuzz/%.o $(FUZZ_AID) $(TEST_LIBS)
	$(call say,LINK,$@)
	$(LINK_TEST) $(LIBS)
$(EMU_BIN): $(BUILD)/tests/emu/%: $(O)/emu/tests/emu/%.o $(EMU_AID) $(EMU_OBJ) $(LIBCOMMON)
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D) && $(CXX) -o $@ $(filter %.o,$^) $(LIBCOMMON) $(LDFLAGS_ALL) -lcmocka $(LIBS)

# What runs where. Sanitizers check the same programs; races are looked for where threads are.
TESTS      := $(call picked,$(UNIT_BIN) $(EMU_BIN) $(FUZZ_BIN) $(SCRIPTS))
# Left out of the ASan build: emu/test_backend, whose many forward passes on instrumented fibres take ten
# minutes. A script takes every refusal, and one whole run of both sides, through the sanitized program.
ASAN_BIN   := $(filter-out %/emu/test_backend,$(UNIT_BIN) $(EMU_BIN) $(FUZZ_BIN))
ASAN_SCRIPTS := $(filter %/bad_input.sh,$(SCRIPTS))
TSAN_UNIT  := $(filter %/test_pool %/test_writer %/test_progress %/test_loader,$(UNIT_BIN))
RUN_TESTS   = tests/run -j $(JOBS)
# Golden values that are too large to commit; tests that need them are skipped without.
KVDIFF_SHARED ?= $(patsubst %/golden,%,$(wildcard ../shared/golden))
export CC CXX CFLAGS_ALL CXXFLAGS_ALL KVDIFF_SHARED

.PHONY: all test test-build test-unit test-list test-asan-build test-tsan-build
all: $(BUILD)/kvdiff $(BUILD)/kvdiff-worker $(LIBSIMT) $(SIDES) ## the program and the sides that it loads

test-build: $(if $(T),,all) $(filter $(BUILD)/%,$(TESTS)) $(TEST_EXTRA) \
            $(if $(filter %/bad_input.sh,$(TESTS)),$(BUILD)/tests/fuzz/fuzz_gguf)
test-unit: test-build ## unit, emulator and script tests of one build; T=pattern takes a part
	$(Q)$(RUN_TESTS) --record $(BUILD)/tests/record.tsv @$(BUILD) $(TESTS)
test-list: ## the name of every test
	@tests/run --list --record $(BUILD)/tests/record.tsv $(UNIT_TEST) $(EMU_TEST) $(FUZZ_BIN) $(SCRIPTS)
test-asan-build: $(ASAN_BIN) $(BUILD)/kvdiff $(BUILD)/sides/blas.so $(BUILD)/sides/emu.so $(TEST_EXTRA)
test-tsan-build: $(TSAN_UNIT)

under = $(patsubst $(BUILD)/%,$(BUILD)/$(1)/%,$(2))
test: ## install what is missing, build, run every test, again under ASan and UBSan, threads under TSan
	$(Q)tools/install-deps
	$(Q)tools/fetch-model || echo "make test: without SmolLM2; the tests that need it are skipped"
	$(Q)$(MAKE) --no-print-directory -j$(JOBS) test-everything

.PHONY: test-everything
test-everything:
ifneq ($(T),)
	$(Q)$(MAKE) --no-print-directory test-unit
else
	$(Q)$(MAKE) --no-print-directory test-build
	$(Q)$(MAKE) --no-print-directory BUILD=$(BUILD)/asan SAN=address,undefined OPT=-O1 test-asan-build
	$(Q)$(MAKE) --no-print-directory BUILD=$(BUILD)/tsan SAN=thread OPT=-O1 test-tsan-build
	$(Q)$(RUN_TESTS) --record $(BUILD)/tests/record.tsv @$(BUILD) $(TESTS) \
	    @$(BUILD)/asan $(call under,asan,$(ASAN_BIN)) $(ASAN_SCRIPTS) \
	    @$(BUILD)/tsan $(call under,tsan,$(TSAN_UNIT))
endif

# ---- proof: golden values, bits, the matrix, the bench --------------------------------------------
# Long checks with a target of their own; `make test` runs a short form of each.
GOLDEN_BIN := $(patsubst %,$(BUILD)/tests/golden/%,cascade golf policies smollm2 smollm2_policies xwindow)
test-build: $(GOLDEN_BIN)
LAWS_BIN   := $(BUILD)/tests/laws/laws
test-build: $(LAWS_BIN)
# A second build of gpu/: only for the tests that plant bugs.
test-build: $(if $(filter tests/cli/mut%,$(TESTS)),$(MUTANT_SIDES))
BITS_BIN   := $(BUILD)/tests/bits/bits
BENCH_BIN  := $(BUILD)/tests/bench/bench
LONG_BIN   := $(BUILD)/tests/bench/long/long

# Unit tests that read golden values: `make golden` alone takes every one of them.
GOLDEN_UNIT := $(patsubst %,$(BUILD)/tests/unit/test_%,golf loader quant shard tokenizer_golden train_graph \
               train_graph64 train_optim train_optim64)
GOLDEN_AID := $(patsubst %,$(O)/tests/golden/%.o,golden duels first_tile text)
$(BUILD)/tests/golden/golf: $(O)/tests/golden/golf_evaluation.o $(O)/tests/golden/golf_weights.o
$(GOLDEN_BIN): $(BUILD)/tests/golden/%: $(O)/tests/golden/%.o $(GOLDEN_AID) $(ALL_LIBS)
	$(call say,LINK,$@)
	$(LINK_TEST) $(LIBS)
$(LAWS_BIN): $(patsubst %.c,$(O)/%.o,$(wildcard tests/laws/*.c)) $(ALL_LIBS)
	$(call say,LINK,$@)
	$(LINK_TEST) -lcmocka $(LIBS)
$(BITS_BIN): $(O)/tests/bits/bits.o $(LIBREF) $(LIBCOMMON)
	$(call say,LINK,$@)
	$(LINK_TEST) $(LIBS)
$(LONG_BIN): $(O)/tests/bench/long/long.o $(ALL_LIBS)
	$(call say,LINK,$@)
	$(LINK_TEST) $(LIBS)
$(BENCH_BIN): $(patsubst %.c,$(O)/%.o,$(wildcard tests/bench/*.c)) $(ALL_LIBS)
	$(call say,LINK,$@)
	$(LINK_TEST) -lopenblas $(LIBS)

.PHONY: golden bits emu-matrix matrix results bench bench-long test-teeth train-check train-default
golden: all $(GOLDEN_BIN) ## the reference against independent double-precision programs (needs KVDIFF_SHARED)
	$(Q)tests/run -j 1 -t 1800 -v @$(BUILD) $(wildcard tests/golden/*.sh) $(GOLDEN_UNIT)
golden: $(GOLDEN_UNIT)
bits: ## one hash from 36 builds: compilers, optimisation levels, vector widths, threads
	$(Q)tests/bits/matrix full
train-check: ## training: one hash from gcc and clang, threads, vector widths, a run stopped and resumed
	$(Q)tests/train/check
train-default: $(BUILD)/kvdiff ## make the embedded model from books and measure it: hours; goes on where it was interrupted
	$(Q)tools/train-default
emu-matrix: all ## emu against ref, 0 ulp: policies, steps, schedule seeds; resumes where it stopped
	$(Q)tests/matrix/emu-matrix
matrix: $(BUILD)/kvdiff $(BUILD)/sides/emu.so ## every selection with every storage, emu against ref, 0 ulp (half an hour); resumes where it stopped
	$(Q)BUILD=$(BUILD) JOBS=$(JOBS) tests/matrix/matrix $(T)
results: all ## what every policy costs on SmolLM2, into docs/results.md (hours); resumes where it stopped
	$(Q)BUILD=$(BUILD) tools/results
bench: all $(BENCH_BIN) ## speed as ratios against OpenBLAS and the machine's own limits; T='gemm golf' takes parts
	$(Q)$(BENCH_BIN) $(T)
bench-long: $(LONG_BIN) ## a million tokens through bounded caches: flat memory, constant time; resumes where it stopped
	$(Q)$(LONG_BIN) $(T)

.PHONY: test-teeth fuzz exhaustive math-exhaustive
test-teeth: ## plant one bug per group in a copy of the tree: every check must go red
	$(Q)tests/teeth/run $(T)

# Longer hunts. FUZZ_SECONDS is per target.
FUZZ_SECONDS ?= 300
fuzz: $(FUZZ_BIN) ## search for crashing inputs with libFuzzer, FUZZ_SECONDS=300 per target; needs clang
	$(Q)BUILD=$(BUILD) tests/fuzz/hunt $(FUZZ_SECONDS) $(call picked,$(FUZZ_TEST))

$(BUILD)/tests/math_exhaustive: tests/math_exhaustive.c common/math.h common/numfmt.h $(LIBCOMMON)
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) $(CFLAGS_ALL) -O3 -o $@ $< $(LIBCOMMON) $(LDFLAGS_ALL) $(LIBS)
exhaustive math-exhaustive: $(BUILD)/tests/math_exhaustive ## every float through math.h and numfmt.h, against correct rounding
	$(Q)$<

# ---- the house ----------------------------------------------------------------------------------
.PHONY: help run deps models clean print-flags
help: ## this list
	@sed -n '2,6s/^# \{0,1\}//p' Makefile
	@echo
	@awk -F':.*## ' '/^[a-zA-Z0-9_.-]+:.*## /{printf "  %-16s %s\n",$$1,$$2}' $(firstword $(MAKEFILE_LIST))
deps: ## install the Debian packages that are missing
	$(Q)tools/install-deps
MODEL ?= novel
models: ## fetch SmolLM2 (93 MB) into models/
	$(Q)tools/fetch-model
run: ## install what is missing, build, and compare two sides on real text; MODEL=smollm2 fetches a real Llama
	$(Q)tools/install-deps
	$(Q)$(MAKE) --no-print-directory -j$(JOBS) all
ifeq ($(MODEL),smollm2)
	$(Q)tools/fetch-model
endif
	$(Q)MODEL='$(MODEL)' tools/run-default
# Program, worker and sides stand side by side in lib/kvdiff, where they find each other; bin/kvdiff points there. share/kvdiff has what
# .cu files are compiled with where there is no GPU.
PREFIX  ?= /usr/local
DESTDIR ?=
ROOT    := $(DESTDIR)$(PREFIX)
.PHONY: install install-files
install: all ## into PREFIX=/usr/local, below DESTDIR if that is given
	$(Q)$(MAKE) --no-print-directory install-files
install-files: # of what is built
	$(call say,INSTALL,$(ROOT))
	$(Q)install -d $(ROOT)/bin $(ROOT)/include $(ROOT)/lib/kvdiff/sides $(ROOT)/share/doc/kvdiff/policy \
	    $(ROOT)/share/kvdiff/include $(ROOT)/share/kvdiff/gpu/simt/include
	$(Q)install -m 755 $(BUILD)/kvdiff $(BUILD)/kvdiff-worker $(ROOT)/lib/kvdiff
	$(Q)install -m 755 $(wildcard $(SIDES)) $(ROOT)/lib/kvdiff/sides
	$(Q)ln -sf ../lib/kvdiff/kvdiff $(ROOT)/bin/kvdiff
	$(Q)install -m 644 include/kvdiff_kernel.h $(ROOT)/include
	$(Q)install -m 644 include/kvdiff_kernel.h $(ROOT)/share/kvdiff/include
	$(Q)install -m 644 $(LIBSIMT) $(ROOT)/share/kvdiff
	$(Q)install -m 644 $(addprefix gpu/simt/,simt.h runtime.h user.h user_math.h user_door.h) $(ROOT)/share/kvdiff/gpu/simt
	$(Q)install -m 644 gpu/simt/include/*.h $(ROOT)/share/kvdiff/gpu/simt/include
	$(Q)for d in examples/*/; do install -d $(ROOT)/share/kvdiff/$$d && install -m 644 $$d*.* $(ROOT)/share/kvdiff/$$d || exit 1; done
	$(Q)install -m 644 README.md docs/*.md $(ROOT)/share/doc/kvdiff
	$(Q)install -m 644 docs/policy/*.md $(ROOT)/share/doc/kvdiff/policy
print-flags: # for scripts that are started by hand
	@printf "export CC='%s' CXX='%s' CFLAGS_ALL='%s' CXXFLAGS_ALL='%s'\n" '$(CC)' '$(CXX)' '$(CFLAGS_ALL)' '$(CXXFLAGS_ALL)'
clean: ## remove the build folder
	rm -rf $(BUILD)

# A first build has no .d files yet: the generated header must exist before anybody includes it.
$(DIFFTEST_OBJ): | $(GEN)/build_info.h

# Headers that each object was made from.
-include $(shell find $(O) $(MUT_O) -name '*.d' 2>/dev/null)
