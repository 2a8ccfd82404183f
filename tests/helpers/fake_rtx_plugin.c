/* A stand-in for the TensorRT-RTX plugin, loaded by the real onnxruntime: it offers the GPUs it is told of, keeps its
   runtime cache as the plugin does, and leaves every node to the CPU.

   FAKE_RTX_GPUS: their places on the PCI bus with spaces between them, in the order in which they are offered.
   FAKE_RTX_LOG: a file that each session is noted in. FAKE_RTX_ERROR and FAKE_RTX_CODE: what every session fails with.

   Layouts: onnxruntime_c_api.h and onnxruntime_ep_c_api.h of version 24, the first whose plugins may describe devices.
   Functions of OrtApi and OrtEpApi are taken by their place, which never changes. */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { API_VERSION = 24, EP_FAIL = 11, GPU = 1, NVIDIA = 0x10de };
enum { CREATE_STATUS = 0, GET_CONFIG_ENTRY = 238, CREATE_PAIRS = 295, ADD_PAIR = 296, GET_VALUE = 297 };
enum { RELEASE_PAIRS = 300, DEVICE_METADATA = 311, GET_EP_API = 317 };
enum { CREATE_EP_DEVICE = 0, CREATE_HARDWARE_DEVICE = 16 };
#define NAME "NvTensorRTRTXExecutionProvider"
#define CACHE_OPTION "ep.nvtensorrtrtxexecutionprovider.nv_runtime_cache_path"

typedef void Status;
typedef void (*Function)(void);
typedef struct { const Function *(*get_api)(uint32_t version); } ApiBase;
typedef struct Provider {
    uint32_t version;
    const char *(*get_name)(const void *);
    Status *(*get_capability)(void *, const void *graph, void *support);
    Status *(*compile)(void *, const void **, const void **, size_t, void **, void **);
    void (*release_compiled)(void *, void **, size_t);
    Function others[32]; /* none of them is implemented */
    char cache_file[4096];
} Provider;
typedef struct {
    uint32_t version;
    const char *(*get_name)(const void *);
    const char *(*get_vendor)(const void *);
    Status *(*get_devices)(void *, const void *const *, size_t, void **, size_t, size_t *);
    Status *(*create)(void *, const void *const *, const void *const *, size_t, const void *, const void *, Provider **);
    void (*release)(void *, Provider *);
    uint32_t (*get_vendor_id)(const void *);
    const char *(*get_version)(const void *);
    Function validate_compiled, create_allocator, release_allocator;
    Status *(*create_transfer)(void *, void **transfer);
    bool (*is_stream_aware)(const void *);
    Function others[32];
} Factory;

static const Function *api, *ep_api;

static Status *failure(const char *text) {
    const char *code = getenv("FAKE_RTX_CODE");
    return ((Status * (*)(int, const char *)) api[CREATE_STATUS])(code ? atoi(code) : EP_FAIL, text);
}
static const char *name(const void *self) { return NAME; }
static const char *vendor(const void *self) { return "a stand-in"; }
static uint32_t vendor_id(const void *self) { return NVIDIA; }
static const char *version(const void *self) { return "0.5.0"; }
static Status *no_transfer(void *self, void **transfer) {
    *transfer = NULL;
    return NULL;
}
static bool unaware(const void *self) { return false; }
static Status *no_node(void *self, const void *graph, void *support) { return NULL; }
static Status *nothing(void *self, const void **graphs, const void **nodes, size_t count, void **infos, void **contexts) {
    return NULL;
}
static void release_nothing(void *self, void **infos, size_t count) {}

static Status *offer(const char *place, uint32_t number, void *factory, void **device) {
    void *pairs = NULL, *hardware = NULL;
    Status *status;
    ((void (*)(void **)) api[CREATE_PAIRS])(&pairs);
    ((void (*)(void *, const char *, const char *)) api[ADD_PAIR])(pairs, "pci_bus_id", place);
    status = ((Status * (*)(int, uint32_t, uint32_t, const char *, const void *, void **)) ep_api[CREATE_HARDWARE_DEVICE])(
        GPU, NVIDIA, number, "NVIDIA", pairs, &hardware);
    if (!status)
        status = ((Status * (*)(void *, const void *, const void *, const void *, void **)) ep_api[CREATE_EP_DEVICE])(
            factory, hardware, NULL, NULL, device);
    ((void (*)(void *)) api[RELEASE_PAIRS])(pairs);
    return status;
}

static Status *devices(void *self, const void *const *hardware, size_t count, void **found, size_t most, size_t *number) {
    char places[256];
    Status *status = NULL;
    *number = 0;
    snprintf(places, sizeof places, "%s", getenv("FAKE_RTX_GPUS") ? getenv("FAKE_RTX_GPUS") : "");
    for (char *place = strtok(places, " "); place && *number < most && !status; place = strtok(NULL, " "), ++*number)
        status = offer(place, (uint32_t)*number, self, &found[*number]);
    return status;
}

static void note(const char *what, const char *place) {
    FILE *log = getenv("FAKE_RTX_LOG") ? fopen(getenv("FAKE_RTX_LOG"), "a") : NULL;
    if (!log) return;
    fprintf(log, "%s on %s\n", what, place);
    fclose(log);
}

static Status *create(void *self, const void *const *hardware, const void *const *metadata, size_t count,
                      const void *options, const void *logger, Provider **made) {
    char folder[4000] = "", kept[64] = "", text[4200];
    size_t size = sizeof folder;
    const void *pairs = ((const void *(*)(const void *)) api[DEVICE_METADATA])(hardware[0]);
    const char *place = ((const char *(*)(const void *, const char *)) api[GET_VALUE])(pairs, "pci_bus_id");
    Status *status = ((Status * (*)(const void *, const char *, char *, size_t *)) api[GET_CONFIG_ENTRY])(
        options, CACHE_OPTION, folder, &size);
    if (status) return status;
    const char *error = getenv("FAKE_RTX_ERROR");
    if (error && *error) {
        note("failed", place);
        return failure(error);
    }
    Provider *provider = calloc(1, sizeof *provider);
    snprintf(provider->cache_file, sizeof provider->cache_file, "%s/fused_node.cache", folder);
    FILE *cache = fopen(provider->cache_file, "r");
    if (cache) {
        if (!fgets(kept, sizeof kept, cache)) kept[0] = 0;
        fclose(cache);
    }
    if (!strcmp(kept, "torn")) {
        snprintf(text, sizeof text, "TensorRT EP could not deserialize engine from cache: %s", folder);
        note("could not read", place);
        free(provider);
        return failure(text);
    }
    note(kept[0] ? "read" : "built", place);
    provider->version = API_VERSION;
    provider->get_name = name;
    provider->get_capability = no_node;
    provider->compile = nothing;
    provider->release_compiled = release_nothing;
    *made = provider;
    return NULL;
}

static void release(void *self, Provider *provider) {
    FILE *cache = fopen(provider->cache_file, "w"); /* as its session ends */
    if (cache) {
        fputs("kernels", cache);
        fclose(cache);
    }
    free(provider);
}

static Factory factory = {API_VERSION, name, vendor, devices, create, release, vendor_id, version,
                          NULL, NULL, NULL, no_transfer, unaware, {NULL}};

Status *CreateEpFactories(const char *as, const ApiBase *base, const void *logger, Factory **made, size_t most,
                          size_t *count) {
    api = base->get_api(API_VERSION);
    ep_api = ((const Function *(*)(void)) api[GET_EP_API])();
    made[0] = &factory;
    *count = 1;
    return NULL;
}
Status *ReleaseEpFactory(Factory *self) { return NULL; }
