/* device_launch_parameters.h - what a candidate's .cu file includes by this name, when it is compiled for the host SIMT layer. */
#ifndef GPU_SIMT_INCLUDE_DEVICE_LAUNCH_PARAMETERS_H
#define GPU_SIMT_INCLUDE_DEVICE_LAUNCH_PARAMETERS_H

#include "gpu/simt/user.h"

#endif
