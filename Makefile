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
WARN     := -Wall -Wextra -Wshadow -Wpointer-arith -Wdouble-promotion -Wvla -Werror
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

.SUFFIXES:
.SECONDARY:
.DEFAULT_GOAL := help

# ---- sources ----------------------------------------------------------------------------------
COMMON_SRC   := $(wildcard common/*.c)
CORPUS_SRC   := $(wildcard corpus/*.c)
DIFFTEST_SRC := $(filter-out difftest/vec_metrics.c,$(wildcard difftest/*.c))
REF_SRC      := $(filter-out ref/kernels.c,$(wildcard ref/*.c) $(wildcard ref/policy/*.c))
BLAS_SRC     := $(wildcard gpu/blas/*.c)
GPU_SRC      := $(wildcard gpu/*.cu) $(wildcard gpu/policy/*.cu)
SIMT_SRC     := $(wildcard gpu/simt/*.cpp)
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

ISA_FLAGS_scalar :=
ISA_FLAGS_avx2   := $(AVX2)
ISA_FLAGS_avx512 := $(AVX512)
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

$(BUILD)/sides/emu.so: $(EMU_OBJ) $(LIBCOMMON)
	@mkdir -p $(@D)
	$(call say,LINK,$@)
	$(Q)$(CXX) -shared -Wl,-z,defs -Wl,--exclude-libs,ALL -o $@ $(EMU_OBJ) $(LIBCOMMON) $(LDFLAGS_ALL) $(LIBS)
