/* A stand-in for the NVIDIA driver's libcuda.so.1, loaded by ctypes as the real one is. FAKE_GPUS holds its GPUs:
   "name|major.minor|MiB;...", FAKE_CUDA_VERSION what cuDriverGetVersion says, FAKE_CUDA_PCI
   where the first is on the PCI bus. CUDA_VISIBLE_DEVICES="" hides them all.
   Signatures: CUDA driver API. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_DEVICE = 101, NO_DEVICE = 100, NOT_SUPPORTED = 801 };
enum { MAJOR = 75, MINOR = 76 };
typedef struct { char name[256]; int major, minor; unsigned long long mib; } Gpu;

static int gpu_at(int ordinal, Gpu *gpu) {
    const char *visible = getenv("CUDA_VISIBLE_DEVICES"), *at = getenv("FAKE_GPUS");
    if (visible && !*visible) return 0;
    for (; at && *at; ordinal--) {
        if (ordinal == 0) return sscanf(at, "%255[^|]|%d.%d|%llu", gpu->name, &gpu->major, &gpu->minor, &gpu->mib) == 4;
        at = strchr(at, ';');
        if (at) at++;
    }
    return 0;
}

int cuInit(unsigned int flags) {
    Gpu gpu;
    return gpu_at(0, &gpu) ? SUCCESS : NO_DEVICE;
}
int cuDriverGetVersion(int *version) {
    const char *text = getenv("FAKE_CUDA_VERSION");
    *version = text ? atoi(text) : 0;
    return SUCCESS;
}
int cuDeviceGetCount(int *count) {
    Gpu gpu;
    for (*count = 0; gpu_at(*count, &gpu);) ++*count;
    return SUCCESS;
}
int cuDeviceGet(int *device, int ordinal) {
    Gpu gpu;
    *device = ordinal;
    return gpu_at(ordinal, &gpu) ? SUCCESS : INVALID_DEVICE;
}
int cuDeviceGetName(char *name, int size, int device) {
    Gpu gpu;
    if (!gpu_at(device, &gpu)) return INVALID_DEVICE;
    strncpy(name, gpu.name, size);
    return SUCCESS;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    Gpu gpu;
    if (!gpu_at(device, &gpu)) return INVALID_DEVICE;
    if (attribute != MAJOR && attribute != MINOR) return NOT_SUPPORTED;
    *value = attribute == MAJOR ? gpu.major : gpu.minor;
    return SUCCESS;
}
int cuDeviceGetPCIBusId(char *place, int size, int device) {
    Gpu gpu;
    const char *at = getenv("FAKE_CUDA_PCI");
    if (!gpu_at(device, &gpu) || device || !at) return INVALID_DEVICE;
    strncpy(place, at, size);
    return SUCCESS;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) {
    Gpu gpu;
    if (!gpu_at(device, &gpu)) return INVALID_DEVICE;
    *bytes = gpu.mib << 20;
    return SUCCESS;
}
