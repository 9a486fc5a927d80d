/* cuda_runtime.h - what a candidate's .cu file includes by this name, when it is compiled for the host SIMT layer. */
#ifndef GPU_SIMT_INCLUDE_CUDA_RUNTIME_H
#define GPU_SIMT_INCLUDE_CUDA_RUNTIME_H

#include "gpu/simt/user.h"

#endif
