/* A stand-in for the NVIDIA driver's libnvidia-ml.so.1: two GPUs, the second of which reports little about itself; with
   FAKE_NVML_GPU="name|major.minor|MiB" that one instead. Signatures: NVML API reference. It is loaded by the real package
   nvidia-ml-py. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, NOT_SUPPORTED = 3, INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9 };
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned int pid; unsigned long long used; unsigned int gpu_instance, compute_instance; } Process;

static int devices[2] = {0, 1};
typedef struct { char name[96]; int major, minor; unsigned long long mib; } Gpu;
/* Whether FAKE_NVML_GPU names one, which is then read. */
static int named(Gpu *gpu) {
    const char *text = getenv("FAKE_NVML_GPU");
    return text && sscanf(text, "%95[^|]|%d.%d|%llu", gpu->name, &gpu->major, &gpu->minor, &gpu->mib) == 4;
}
static int index_of(void *device) { return *(int *)device; }

int nvmlInitWithFlags(unsigned int flags) { return getenv("FAKE_NVML_NO_DRIVER") ? DRIVER_NOT_LOADED : SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { return code == DRIVER_NOT_LOADED ? "Driver Not Loaded" : "Not Supported"; }
int nvmlSystemGetDriverVersion(char *text, unsigned int length) {
    const char *version = getenv("FAKE_NVML_DRIVER");
    strncpy(text, version ? version : "570.86", length);
    return SUCCESS;
}
int nvmlDeviceGetCount_v2(unsigned int *count) {
    Gpu gpu;
    *count = named(&gpu) ? 1 : 2;
    return SUCCESS;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device) { *device = &devices[index]; return SUCCESS; }
int nvmlDeviceGetName(void *device, char *text, unsigned int length) {
    Gpu gpu;
    if (named(&gpu)) {
        strncpy(text, gpu.name, length);
        return SUCCESS;
    }
    strncpy(text, index_of(device) ? "NVIDIA Orin" : "NVIDIA L4", length);
    return SUCCESS;
}
int nvmlDeviceGetMemoryInfo(void *device, Memory *memory) {
    Gpu gpu;
    if (index_of(device)) return NOT_SUPPORTED;
    memory->total = (named(&gpu) ? gpu.mib : 23034ULL) << 20;
    return SUCCESS;
}
int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor) {
    Gpu gpu;
    if (named(&gpu)) {
        *major = gpu.major, *minor = gpu.minor;
        return SUCCESS;
    }
    *major = 8, *minor = index_of(device) ? 7 : 9;
    return SUCCESS;
}
int nvmlDeviceGetPowerManagementLimit(void *device, unsigned int *milliwatts) {
    if (index_of(device)) return NOT_SUPPORTED;
    *milliwatts = 72500;
    return SUCCESS;
}
int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *millijoules) {
    static unsigned long long used = 1000;
    if (index_of(device)) return NOT_SUPPORTED;
    *millijoules = used;
    used += 2500;
    return SUCCESS;
}
int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned int *count, Process *processes) {
    if (index_of(device)) return NOT_SUPPORTED;
    if (*count < 3) { *count = 3; return INSUFFICIENT_SIZE; }
    *count = 3;
    processes[0] = (Process){1234, 300 << 20, 0, 0};
    processes[1] = (Process){99, 5 << 20, 0, 0};
    processes[2] = (Process){1234, ~0ULL, 0, 0}; /* NVML_VALUE_NOT_AVAILABLE */
    return SUCCESS;
}
