/* A stand-in for the CUDA runtime's libcudart.so: page-locking that works or fails, and the error that stays behind.
   Signatures and the error's lifetime: CUDA Runtime API reference, "Memory Management" and "Error Handling". */
#include <stddef.h>

enum { SUCCESS = 0, HOST_MEMORY_NOT_REGISTERED = 713, NOT_PERMITTED = 800 };

static int can_lock = 1, last_error = SUCCESS;
static void *locked;
static size_t locked_bytes;

void fake_lock(int possible) { can_lock = possible; }
int fake_locked_bytes(void) { return (int)locked_bytes; }

static int failed(int error) { return last_error = error; }

int cudaHostRegister(void *address, size_t size, unsigned int flags) {
    if (!can_lock || flags) return failed(NOT_PERMITTED);
    locked = address;
    locked_bytes = size;
    return SUCCESS;
}
int cudaHostUnregister(void *address) {
    if (address != locked) return failed(HOST_MEMORY_NOT_REGISTERED);
    locked = NULL;
    locked_bytes = 0;
    return SUCCESS;
}
int cudaPeekAtLastError(void) { return last_error; }
int cudaGetLastError(void) {
    int error = last_error;
    last_error = SUCCESS;
    return error;
}
