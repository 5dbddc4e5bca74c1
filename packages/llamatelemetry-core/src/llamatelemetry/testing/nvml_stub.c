/*
 * A scripted libnvidia-ml.so.1: it answers NVML's calls from a device model in a shared file.
 *
 * It exists so that everything above NVML can be tested through NVIDIA's real Python binding on a
 * machine without a GPU. It proves the path from the driver's interface to ours, errors included.
 * It never proves a value: what it answers is what a test wrote.
 *
 * The model is one struct, mapped from the file that NVML_STUB_STATE names; the path is read anew
 * at every nvmlInit. nvml_stub.py writes it and reads the call counters back. Figures and functions
 * are found by name (the two tables below), so that the writer needs no second list of them.
 *
 * What a device does not tell is MISSING, and its call answers NVML_ERROR_NOT_SUPPORTED. A function
 * of NVML that is not in the table is not exported, as in a driver older than it.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* ------------------------------------------------------------------ what both sides agree on */

enum {
    LAYOUT = 1,
    DEVICES = 16,
    MIGS = 8,
    LINKS = 18,
    PROCESSES = 64,
    EVENTS = 64,
    SEGMENTS = 4096,
    FUNCTION_SLOTS = 128,
    FIGURE_SLOTS = 96,
    CPU_WORDS = 16,
    PEER_CAPABILITIES = 5,
};

#define MISSING INT64_MIN

/* One number each, MISSING where the device does not tell. */
#define FIGURES(X) \
    X(architecture) X(bar1_total) X(bar1_used) X(board_id) X(brand) \
    X(clock_graphics) X(clock_max_graphics) X(clock_max_memory) X(clock_max_sm) X(clock_max_video) \
    X(clock_memory) X(clock_sm) X(clock_video) X(compute_major) X(compute_minor) X(cores) \
    X(counter_period_ns) X(counter_phase_ns) X(ecc) \
    X(ecc_corrected) X(ecc_corrected_aggregate) X(ecc_uncorrected) X(ecc_uncorrected_aggregate) \
    X(energy_counter) X(event_types) X(fan_percent) X(gpu_numa_node) X(instant_power) X(lost) \
    X(memory_bus_bits) X(memory_reserved) X(memory_total) X(memory_used) X(mig_max) X(mig_mode) X(mig_power) \
    X(multiprocessors) X(nvlink_speed_mbps) X(nvlinks) X(pci_device_id) X(pci_subsystem_id) \
    X(pcie_generation) X(pcie_max_generation) X(pcie_max_width) X(pcie_replays) \
    X(pcie_rx_kb_per_s) X(pcie_tx_kb_per_s) X(pcie_width) X(performance_state) X(persistence) \
    X(power) X(power_limit_default_mw) X(power_limit_enforced_mw) X(power_limit_max_mw) \
    X(power_limit_min_mw) X(power_limit_mw) X(process_lists) X(process_utilization) \
    X(temperature) X(temperature_memory) X(temperature_shutdown) X(temperature_slowdown) \
    X(throttle_reasons) X(throttle_reasons_supported) \
    X(utilization_decoder) X(utilization_encoder) X(utilization_gpu) X(utilization_memory)

#define FUNCTIONS(X) \
    X(nvmlInit_v2) X(nvmlShutdown) \
    X(nvmlSystemGetCudaDriverVersion) X(nvmlSystemGetCudaDriverVersion_v2) \
    X(nvmlSystemGetDriverVersion) X(nvmlSystemGetNVMLVersion) X(nvmlSystemGetProcessName) \
    X(nvmlDeviceGetCount_v2) X(nvmlDeviceGetHandleByIndex_v2) X(nvmlDeviceGetHandleByPciBusId_v2) \
    X(nvmlDeviceGetHandleBySerial) X(nvmlDeviceGetHandleByUUID) \
    X(nvmlDeviceGetArchitecture) X(nvmlDeviceGetAttributes_v2) X(nvmlDeviceGetBAR1MemoryInfo) \
    X(nvmlDeviceGetBoardId) X(nvmlDeviceGetBrand) X(nvmlDeviceGetClockInfo) \
    X(nvmlDeviceGetComputeInstanceId) X(nvmlDeviceGetComputeRunningProcesses_v3) \
    X(nvmlDeviceGetCpuAffinity) X(nvmlDeviceGetCpuAffinityWithinScope) \
    X(nvmlDeviceGetCudaComputeCapability) X(nvmlDeviceGetCurrPcieLinkGeneration) \
    X(nvmlDeviceGetCurrPcieLinkWidth) X(nvmlDeviceGetCurrentClocksEventReasons) \
    X(nvmlDeviceGetCurrentClocksThrottleReasons) X(nvmlDeviceGetDecoderUtilization) \
    X(nvmlDeviceGetDeviceHandleFromMigDeviceHandle) X(nvmlDeviceGetEccMode) \
    X(nvmlDeviceGetEncoderUtilization) X(nvmlDeviceGetEnforcedPowerLimit) \
    X(nvmlDeviceGetFanSpeed) X(nvmlDeviceGetFieldValues) X(nvmlDeviceGetGpuInstanceId) \
    X(nvmlDeviceGetGraphicsRunningProcesses_v3) X(nvmlDeviceGetIndex) \
    X(nvmlDeviceGetMaxClockInfo) X(nvmlDeviceGetMaxMigDeviceCount) \
    X(nvmlDeviceGetMaxPcieLinkGeneration) X(nvmlDeviceGetMaxPcieLinkWidth) \
    X(nvmlDeviceGetMemoryAffinity) X(nvmlDeviceGetMemoryBusWidth) \
    X(nvmlDeviceGetMemoryErrorCounter) X(nvmlDeviceGetMemoryInfo) X(nvmlDeviceGetMemoryInfo_v2) \
    X(nvmlDeviceGetMigDeviceHandleByIndex) X(nvmlDeviceGetMigMode) X(nvmlDeviceGetMinorNumber) \
    X(nvmlDeviceGetName) X(nvmlDeviceGetNumGpuCores) X(nvmlDeviceGetNumaNodeId) \
    X(nvmlDeviceGetNvLinkCapability) X(nvmlDeviceGetNvLinkErrorCounter) \
    X(nvmlDeviceGetNvLinkRemoteDeviceType) X(nvmlDeviceGetNvLinkRemotePciInfo_v2) \
    X(nvmlDeviceGetNvLinkState) X(nvmlDeviceGetNvLinkVersion) X(nvmlDeviceGetP2PStatus) \
    X(nvmlDeviceGetPciInfo_v3) X(nvmlDeviceGetPcieReplayCounter) X(nvmlDeviceGetPcieThroughput) \
    X(nvmlDeviceGetPerformanceState) X(nvmlDeviceGetPersistenceMode) \
    X(nvmlDeviceGetPowerManagementDefaultLimit) X(nvmlDeviceGetPowerManagementLimit) \
    X(nvmlDeviceGetPowerManagementLimitConstraints) X(nvmlDeviceGetPowerUsage) \
    X(nvmlDeviceGetProcessUtilization) X(nvmlDeviceGetSerial) \
    X(nvmlDeviceGetSupportedClocksEventReasons) X(nvmlDeviceGetSupportedClocksThrottleReasons) \
    X(nvmlDeviceGetSupportedEventTypes) X(nvmlDeviceGetTemperature) \
    X(nvmlDeviceGetTemperatureThreshold) X(nvmlDeviceGetTemperatureV) \
    X(nvmlDeviceGetTopologyCommonAncestor) X(nvmlDeviceGetTopologyNearestGpus) \
    X(nvmlDeviceGetTotalEccErrors) X(nvmlDeviceGetTotalEnergyConsumption) X(nvmlDeviceGetUUID) \
    X(nvmlDeviceGetUtilizationRates) X(nvmlDeviceGetVbiosVersion) \
    X(nvmlDeviceIsMigDeviceHandle) X(nvmlDeviceOnSameBoard) X(nvmlDeviceRegisterEvents) \
    X(nvmlEventSetCreate) X(nvmlEventSetFree) X(nvmlEventSetWait_v2)

#define AS_FIGURE(name) G_##name,
#define AS_FUNCTION(name) F_##name,
#define AS_TEXT(name) #name,
enum { FIGURES(AS_FIGURE) FIGURE_COUNT };
enum { FUNCTIONS(AS_FUNCTION) FUNCTION_COUNT };
static const char *const figure_names[] = {FIGURES(AS_TEXT)};
static const char *const function_names[] = {FUNCTIONS(AS_TEXT)};
_Static_assert((int)FIGURE_COUNT <= (int)FIGURE_SLOTS, "more figures than slots");
_Static_assert((int)FUNCTION_COUNT <= (int)FUNCTION_SLOTS, "more functions than slots");

typedef struct {
    int64_t start_ns; /* of the device's time */
    int64_t power_mw; /* from then on */
    uint64_t energy_mj; /* used until then: whole millijoules ... */
    uint64_t energy_pj; /* ... and the rest in picojoules (mW times ns), so that nothing is rounded */
} Segment;

typedef struct {
    char remote_bus_id[32];
    uint32_t active;
    uint32_t version;
    uint32_t remote_type;
    uint32_t speed_mbps;
    uint64_t transmitted_kib;
    uint64_t received_kib;
    uint64_t errors;
} Link;

typedef struct {
    uint32_t pid;
    uint32_t gpu_instance;
    uint32_t compute_instance;
    uint32_t graphics;
    uint64_t memory;
    uint32_t utilization[4]; /* multiprocessors, memory, encoder, decoder */
} Process;

typedef struct {
    char uuid[96];
    char name[96];
    uint32_t gpu_instance;
    uint32_t compute_instance;
    uint32_t multiprocessors;
    uint32_t gpu_slices;
    uint32_t compute_slices;
    uint32_t padding;
    int64_t memory_total;
    int64_t memory_used;
} Mig;

typedef struct {
    uint64_t type;
    uint64_t data;
} Event;

typedef struct {
    char name[96];
    char uuid[96];
    char serial[32];
    char pci_bus_id[32];
    char vbios[32];
    int64_t figures[FIGURE_SLOTS];
    int32_t errors[FUNCTION_SLOTS];
    int32_t levels[DEVICES];
    int32_t peers[DEVICES][PEER_CAPABILITIES];
    uint64_t cpus[2][CPU_WORDS]; /* of the NUMA node, of the socket */
    uint64_t nodes[2][CPU_WORDS];
    Link links[LINKS];
    Mig migs[MIGS];
    Event events[EVENTS]; /* a ring; events_ever is where the next one goes */
    uint64_t events_ever;
    atomic_uint_fast64_t changing; /* odd while processes or segments are being written */
    uint64_t processes_used;
    Process processes[PROCESSES];
    uint64_t segments_used;
    Segment segments[SEGMENTS];
} Device;

typedef struct {
    uint64_t layout;
    uint64_t manual; /* 1: time is manual_ns */
    int64_t manual_ns;
    int64_t origin_ns; /* CLOCK_MONOTONIC at the device model's time zero */
    int64_t origin_unix_ns;
    uint64_t devices_used;
    int64_t cuda_version;
    char driver_version[80];
    char nvml_version[80];
    atomic_uint_fast64_t calls[FUNCTION_SLOTS];
    int64_t delays_ns[FUNCTION_SLOTS];
    int32_t errors[FUNCTION_SLOTS];
    Device devices[DEVICES];
} State;

uint64_t nvml_stub_layout(void) { return LAYOUT; }
uint64_t nvml_stub_state_size(void) { return sizeof(State); }
uint64_t nvml_stub_device_size(void) { return sizeof(Device); }
const char *nvml_stub_figure(unsigned i) { return i < FIGURE_COUNT ? figure_names[i] : NULL; }
const char *nvml_stub_function(unsigned i) { return i < FUNCTION_COUNT ? function_names[i] : NULL; }

/* ------------------------------------------------------------------ NVML's types and numbers */

typedef int Return;
typedef struct Handle *DeviceHandle; /* never a pointer: a number that says which device it is */
typedef struct Set *EventSet;

enum {
    SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9, TIMEOUT = 10, GPU_IS_LOST = 15, MEMORY = 20,
    VERSION_MISMATCH = 25,
};

typedef struct { uint64_t total, free, used; } MemoryInfo;
typedef struct { uint32_t version; uint64_t total, reserved, free, used; } MemoryInfoV2;
typedef struct { uint32_t gpu, memory; } Utilization;
typedef struct { uint32_t pid; uint64_t memory; uint32_t gpu_instance, compute_instance; } ProcessInfo;
typedef struct {
    uint32_t pid; uint64_t time_us; uint32_t utilization[4];
} ProcessSample;
typedef struct {
    char legacy[16]; uint32_t domain, bus, device, device_id, subsystem_id; char bus_id[32];
} PciInfo;
typedef struct {
    uint32_t field, scope; int64_t time_us, latency_us; uint32_t type; Return answer;
    union { double d; uint32_t u; int32_t i; uint64_t ull; } value;
} FieldValue;
typedef struct {
    DeviceHandle device; uint64_t type, data; uint32_t gpu_instance, compute_instance;
} EventData;
typedef struct {
    uint32_t multiprocessors, copy_engines, decoders, encoders, jpegs, ofas, gpu_slices, compute_slices;
    uint64_t memory_mib;
} Attributes;
typedef struct { uint32_t version, sensor; int32_t celsius; } TemperatureV1;

/* ------------------------------------------------------------------ this process */

static _Atomic(State *) state;
static atomic_int opened;
static char state_path[4096];
static ino_t state_inode;

static const struct timespec MILLISECOND = {0, 1000000};

static int64_t clock_ns(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* The device model's time. */
static int64_t now_ns(const State *s)
{
    return s->manual ? s->manual_ns : clock_ns(CLOCK_MONOTONIC) - s->origin_ns;
}

/* Maps the file again if it is another one. The old mapping stays: a call may be reading it. */
static Return map_state(void)
{
    const char *path = getenv("NVML_STUB_STATE");
    if (path == NULL || strlen(path) >= sizeof state_path)
        return DRIVER_NOT_LOADED;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return DRIVER_NOT_LOADED;
    struct stat about;
    if (fstat(fd, &about) != 0 || (size_t)about.st_size < sizeof(State)) {
        close(fd);
        return DRIVER_NOT_LOADED;
    }
    if (atomic_load(&state) != NULL && about.st_ino == state_inode && strcmp(path, state_path) == 0) {
        close(fd);
        return SUCCESS;
    }
    State *mapped = mmap(NULL, sizeof(State), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (mapped == MAP_FAILED || mapped->layout != LAYOUT)
        return DRIVER_NOT_LOADED;
    strcpy(state_path, path);
    state_inode = about.st_ino;
    atomic_store(&state, mapped);
    atomic_store(&opened, 0);
    return SUCCESS;
}

/* Counts the call, takes as long as it was told to (until it is told otherwise), and answers the
 * error planted for it. */
static Return count_call(State *s, int function)
{
    const volatile int64_t *delay = &s->delays_ns[function];
    atomic_fetch_add_explicit(&s->calls[function], 1, memory_order_relaxed);
    if (*delay > 0) {
        int64_t start = clock_ns(CLOCK_MONOTONIC), left;
        while ((left = start + *delay - clock_ns(CLOCK_MONOTONIC)) > 0) {
            struct timespec t = {0, left < MILLISECOND.tv_nsec ? left : MILLISECOND.tv_nsec};
            nanosleep(&t, NULL);
        }
    }
    return s->errors[function];
}

static Return enter(int function, State **s)
{
    *s = atomic_load(&state);
    if (*s == NULL || atomic_load(&opened) <= 0)
        return UNINITIALIZED;
    return count_call(*s, function);
}

/* What a handle means. */
typedef struct {
    State *state;
    Device *device;
    unsigned index;
    Mig *mig; /* NULL for a whole GPU */
    unsigned mig_index;
} Target;

enum { FIRST_HANDLE = 0x4e560000, FIRST_SET = 0x4e570000, SETS = 64 };

static DeviceHandle handle_of(unsigned device, int mig)
{
    return (DeviceHandle)(uintptr_t)(FIRST_HANDLE + device * (MIGS + 1) + (unsigned)(mig + 1));
}

static Return device_error(const Device *d, int function)
{
    return d->figures[G_lost] == 1 ? GPU_IS_LOST : d->errors[function];
}

static bool resolve(State *s, DeviceHandle handle, Target *t)
{
    uintptr_t number = (uintptr_t)handle - FIRST_HANDLE;
    unsigned device = (unsigned)(number / (MIGS + 1)), mig = (unsigned)(number % (MIGS + 1));
    if ((uintptr_t)handle < FIRST_HANDLE || number >= DEVICES * (MIGS + 1) || device >= s->devices_used)
        return false;
    *t = (Target){s, &s->devices[device], device, NULL, 0};
    if (mig > 0) {
        t->mig = &t->device->migs[mig - 1];
        t->mig_index = mig - 1;
        if (t->mig->uuid[0] == '\0' || t->device->figures[G_mig_mode] != 1)
            return false;
    }
    return true;
}

static Return enter_any(int function, DeviceHandle handle, Target *t)
{
    State *s;
    Return error = enter(function, &s);
    if (error != SUCCESS)
        return error;
    return resolve(s, handle, t) ? device_error(t->device, function) : INVALID_ARGUMENT;
}

/* Power and energy of a MIG instance: none, or its whole GPU's. */
static Return enter_power(int function, DeviceHandle handle, Target *t)
{
    Return error = enter_any(function, handle, t);
    return error == SUCCESS && t->mig != NULL && t->device->figures[G_mig_power] != 1 ? NOT_SUPPORTED : error;
}

/* Most functions know whole GPUs only. */
static Return enter_gpu(int function, DeviceHandle handle, Target *t)
{
    Return error = enter_any(function, handle, t);
    return error == SUCCESS && t->mig != NULL ? NOT_SUPPORTED : error;
}

#define BEGIN_ANY(function, handle) \
    Target t; \
    do { Return e_ = enter_any(F_##function, handle, &t); if (e_ != SUCCESS) return e_; } while (0); \
    Device *d = t.device; \
    (void)d
#define BEGIN_GPU(function, handle) \
    Target t; \
    do { Return e_ = enter_gpu(F_##function, handle, &t); if (e_ != SUCCESS) return e_; } while (0); \
    Device *d = t.device; \
    (void)d
#define BEGIN_POWER(function, handle) \
    Target t; \
    do { Return e_ = enter_power(F_##function, handle, &t); if (e_ != SUCCESS) return e_; } while (0); \
    Device *d = t.device; \
    (void)d
#define BEGIN_SYSTEM(function) \
    State *s; \
    do { Return e_ = enter(F_##function, &s); if (e_ != SUCCESS) return e_; } while (0)
#define NEED(condition) do { if (!(condition)) return INVALID_ARGUMENT; } while (0)
#define SUPPORTED(condition) do { if (!(condition)) return NOT_SUPPORTED; } while (0)

static Return copy_text(char *to, unsigned length, const char *text)
{
    NEED(to != NULL);
    SUPPORTED(text[0] != '\0');
    if (strlen(text) >= length)
        return INSUFFICIENT_SIZE;
    strcpy(to, text);
    return SUCCESS;
}

static Return give_uint(const Device *d, int figure, unsigned *to)
{
    NEED(to != NULL);
    SUPPORTED(d->figures[figure] != MISSING);
    *to = (unsigned)d->figures[figure];
    return SUCCESS;
}

static Return give_ull(const Device *d, int figure, uint64_t *to)
{
    NEED(to != NULL);
    SUPPORTED(d->figures[figure] != MISSING);
    *to = (uint64_t)d->figures[figure];
    return SUCCESS;
}

/* Readers of processes and segments try again if they were written meanwhile. A writer that died
 * half-way must not hang its readers: after about a second they take what there is. */
static uint64_t begin_reading(Device *d)
{
    uint64_t before = atomic_load(&d->changing);
    for (int i = 0; i < 1000 && before % 2 == 1; i++) {
        nanosleep(&MILLISECOND, NULL);
        before = atomic_load(&d->changing);
    }
    return before;
}

static bool changed_since(Device *d, uint64_t before)
{
    atomic_thread_fence(memory_order_acquire);
    return before % 2 == 0 && atomic_load(&d->changing) != before;
}

/* ------------------------------------------------------------------ power and energy */

static const int64_t PJ_PER_MJ = 1000000000;

static const Segment *segment_at(const Device *d, int64_t time_ns)
{
    uint64_t low = 0, high = d->segments_used;
    while (high - low > 1) {
        uint64_t middle = (low + high) / 2;
        if (d->segments[middle].start_ns <= time_ns)
            low = middle;
        else
            high = middle;
    }
    return &d->segments[low];
}

/* Energy used until a moment, in picojoules. Before the first segment its power is taken to have held. */
static __int128 energy_pj(const Device *d, int64_t time_ns)
{
    const Segment *g = segment_at(d, time_ns);
    return (__int128)g->energy_mj * PJ_PER_MJ + (__int128)g->energy_pj
        + (__int128)g->power_mw * (time_ns - g->start_ns);
}

/* What the counter shows: the energy at its last step. */
static uint64_t counter_mj(Device *d, int64_t time_ns)
{
    int64_t period = d->figures[G_counter_period_ns];
    if (period > 0) {
        int64_t since = (time_ns - d->figures[G_counter_phase_ns]) % period;
        time_ns -= since < 0 ? since + period : since;
    }
    uint64_t before;
    __int128 energy;
    do {
        before = begin_reading(d);
        energy = energy_pj(d, time_ns);
    } while (changed_since(d, before));
    return energy < 0 ? 0 : (uint64_t)(energy / PJ_PER_MJ);
}

static unsigned instant_mw(Device *d, int64_t time_ns)
{
    uint64_t before;
    int64_t power;
    do {
        before = begin_reading(d);
        power = segment_at(d, time_ns)->power_mw;
    } while (changed_since(d, before));
    return (unsigned)power;
}

/* Mean over the last second, as GetPowerUsage answers since Ampere. */
static unsigned average_mw(Device *d, int64_t time_ns)
{
    const int64_t second = 1000000000;
    uint64_t before;
    __int128 energy;
    do {
        before = begin_reading(d);
        energy = energy_pj(d, time_ns) - energy_pj(d, time_ns - second);
    } while (changed_since(d, before));
    return (unsigned)((energy + second / 2) / second);
}

Return nvmlDeviceGetPowerUsage(DeviceHandle handle, unsigned *to)
{
    BEGIN_POWER(nvmlDeviceGetPowerUsage, handle);
    NEED(to != NULL);
    SUPPORTED(d->figures[G_power] == 1);
    int64_t time_ns = now_ns(t.state);
    *to = d->figures[G_instant_power] == 1 ? average_mw(d, time_ns) : instant_mw(d, time_ns);
    return SUCCESS;
}

Return nvmlDeviceGetTotalEnergyConsumption(DeviceHandle handle, uint64_t *to)
{
    BEGIN_POWER(nvmlDeviceGetTotalEnergyConsumption, handle);
    NEED(to != NULL);
    SUPPORTED(d->figures[G_energy_counter] == 1);
    *to = counter_mj(d, now_ns(t.state));
    return SUCCESS;
}

/* ------------------------------------------------------------------ the library and the system */

static Return open_library(void)
{
    Return error = map_state();
    if (error != SUCCESS)
        return error;
    error = count_call(atomic_load(&state), F_nvmlInit_v2);
    if (error == SUCCESS)
        atomic_fetch_add(&opened, 1);
    return error;
}

Return nvmlInit(void) { return open_library(); }
Return nvmlInit_v2(void) { return open_library(); }
Return nvmlInitWithFlags(unsigned flags) { (void)flags; return open_library(); }

Return nvmlShutdown(void)
{
    BEGIN_SYSTEM(nvmlShutdown);
    (void)s;
    atomic_fetch_sub(&opened, 1);
    return SUCCESS;
}

/* For the script, when it leaves this process: every call answers UNINITIALIZED until the next init. */
void nvml_stub_leave(void) { atomic_store(&opened, 0); }

const char *nvmlErrorString(Return code)
{
    switch (code) {
    case 0: return "The operation was successful";
    case 1: return "NVML was not first initialized with nvmlInit()";
    case 2: return "A supplied argument is invalid";
    case 3: return "The requested operation is not available on target device";
    case 4: return "The current user does not have permission for operation";
    case 6: return "A query to find an object was unsuccessful";
    case 7: return "An input argument is not large enough";
    case 9: return "NVIDIA driver is not loaded";
    case 10: return "User provided timeout passed";
    case 12: return "NVML Shared Library couldn't be found or loaded";
    case 13: return "Local version of NVML doesn't implement this function";
    case 15: return "The GPU has fallen off the bus or has otherwise become inaccessible";
    case 16: return "The GPU requires a reset before it can be used again";
    case 18: return "RM detects a driver/library version mismatch";
    case 25: return "The provided version is invalid or unsupported";
    case 999: return "An internal driver error occurred";
    default: return "An error of the stub's script";
    }
}

Return nvmlSystemGetDriverVersion(char *to, unsigned length)
{
    BEGIN_SYSTEM(nvmlSystemGetDriverVersion);
    return copy_text(to, length, s->driver_version);
}

Return nvmlSystemGetNVMLVersion(char *to, unsigned length)
{
    BEGIN_SYSTEM(nvmlSystemGetNVMLVersion);
    return copy_text(to, length, s->nvml_version);
}

Return nvmlSystemGetCudaDriverVersion(int *to)
{
    BEGIN_SYSTEM(nvmlSystemGetCudaDriverVersion);
    NEED(to != NULL);
    *to = (int)s->cuda_version;
    return SUCCESS;
}

Return nvmlSystemGetCudaDriverVersion_v2(int *to)
{
    BEGIN_SYSTEM(nvmlSystemGetCudaDriverVersion_v2);
    NEED(to != NULL);
    *to = (int)s->cuda_version;
    return SUCCESS;
}

Return nvmlSystemGetProcessName(unsigned pid, char *to, unsigned length)
{
    BEGIN_SYSTEM(nvmlSystemGetProcessName);
    (void)s;
    NEED(to != NULL && length > 0);
    char path[64];
    snprintf(path, sizeof path, "/proc/%u/cmdline", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return NOT_FOUND;
    ssize_t size = read(fd, to, length - 1);
    close(fd);
    to[size > 0 ? size : 0] = '\0';
    return SUCCESS;
}

/* ------------------------------------------------------------------ finding devices */

Return nvmlDeviceGetCount_v2(unsigned *to)
{
    BEGIN_SYSTEM(nvmlDeviceGetCount_v2);
    NEED(to != NULL);
    *to = (unsigned)s->devices_used;
    return SUCCESS;
}

static Return give_handle(State *s, int function, unsigned device, int mig, DeviceHandle *to)
{
    Return error = device_error(&s->devices[device], function);
    if (error == SUCCESS)
        *to = handle_of(device, mig);
    return error;
}

Return nvmlDeviceGetHandleByIndex_v2(unsigned index, DeviceHandle *to)
{
    BEGIN_SYSTEM(nvmlDeviceGetHandleByIndex_v2);
    NEED(to != NULL && index < s->devices_used);
    return give_handle(s, F_nvmlDeviceGetHandleByIndex_v2, index, -1, to);
}

Return nvmlDeviceGetHandleByUUID(const char *uuid, DeviceHandle *to)
{
    BEGIN_SYSTEM(nvmlDeviceGetHandleByUUID);
    NEED(to != NULL && uuid != NULL);
    for (unsigned i = 0; i < s->devices_used; i++) {
        Device *d = &s->devices[i];
        if (strcasecmp(uuid, d->uuid) == 0)
            return give_handle(s, F_nvmlDeviceGetHandleByUUID, i, -1, to);
        for (int m = 0; m < MIGS && d->figures[G_mig_mode] == 1; m++)
            if (d->migs[m].uuid[0] != '\0' && strcasecmp(uuid, d->migs[m].uuid) == 0)
                return give_handle(s, F_nvmlDeviceGetHandleByUUID, i, m, to);
    }
    return NOT_FOUND;
}

Return nvmlDeviceGetHandleBySerial(const char *serial, DeviceHandle *to)
{
    BEGIN_SYSTEM(nvmlDeviceGetHandleBySerial);
    NEED(to != NULL && serial != NULL && serial[0] != '\0');
    for (unsigned i = 0; i < s->devices_used; i++)
        if (strcmp(serial, s->devices[i].serial) == 0)
            return give_handle(s, F_nvmlDeviceGetHandleBySerial, i, -1, to);
    return NOT_FOUND;
}

static bool parse_bus_id(const char *text, unsigned id[4])
{
    if (sscanf(text, "%x:%x:%x.%x", &id[0], &id[1], &id[2], &id[3]) == 4)
        return true;
    id[0] = 0; /* the domain may be left out */
    return sscanf(text, "%x:%x.%x", &id[1], &id[2], &id[3]) == 3;
}

Return nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, DeviceHandle *to)
{
    BEGIN_SYSTEM(nvmlDeviceGetHandleByPciBusId_v2);
    unsigned wanted[4], id[4];
    NEED(to != NULL && bus_id != NULL && parse_bus_id(bus_id, wanted));
    for (unsigned i = 0; i < s->devices_used; i++)
        if (parse_bus_id(s->devices[i].pci_bus_id, id) && memcmp(id, wanted, sizeof id) == 0)
            return give_handle(s, F_nvmlDeviceGetHandleByPciBusId_v2, i, -1, to);
    return NOT_FOUND;
}

/* ------------------------------------------------------------------ what a device is */

Return nvmlDeviceGetName(DeviceHandle handle, char *to, unsigned length)
{
    BEGIN_ANY(nvmlDeviceGetName, handle);
    return copy_text(to, length, t.mig != NULL ? t.mig->name : d->name);
}

Return nvmlDeviceGetUUID(DeviceHandle handle, char *to, unsigned length)
{
    BEGIN_ANY(nvmlDeviceGetUUID, handle);
    return copy_text(to, length, t.mig != NULL ? t.mig->uuid : d->uuid);
}

Return nvmlDeviceGetSerial(DeviceHandle handle, char *to, unsigned length)
{
    BEGIN_GPU(nvmlDeviceGetSerial, handle);
    return copy_text(to, length, d->serial);
}

Return nvmlDeviceGetVbiosVersion(DeviceHandle handle, char *to, unsigned length)
{
    BEGIN_GPU(nvmlDeviceGetVbiosVersion, handle);
    return copy_text(to, length, d->vbios);
}

Return nvmlDeviceGetIndex(DeviceHandle handle, unsigned *to)
{
    BEGIN_ANY(nvmlDeviceGetIndex, handle);
    NEED(to != NULL);
    *to = t.mig != NULL ? t.mig_index : t.index;
    return SUCCESS;
}

Return nvmlDeviceGetMinorNumber(DeviceHandle handle, unsigned *to)
{
    BEGIN_GPU(nvmlDeviceGetMinorNumber, handle);
    NEED(to != NULL);
    *to = t.index;
    return SUCCESS;
}

Return nvmlDeviceGetCudaComputeCapability(DeviceHandle handle, int *major, int *minor)
{
    BEGIN_ANY(nvmlDeviceGetCudaComputeCapability, handle);
    NEED(major != NULL && minor != NULL);
    SUPPORTED(d->figures[G_compute_major] != MISSING);
    *major = (int)d->figures[G_compute_major];
    *minor = (int)d->figures[G_compute_minor];
    return SUCCESS;
}

static Return give_pci(PciInfo *to, const char *bus_id, const Device *d)
{
    unsigned id[4];
    NEED(to != NULL);
    SUPPORTED(parse_bus_id(bus_id, id));
    memset(to, 0, sizeof *to);
    snprintf(to->legacy, sizeof to->legacy, "%04X:%02X:%02X.%X",
             id[0] & 0xffff, id[1] & 0xff, id[2] & 0xff, id[3] & 0xf);
    snprintf(to->bus_id, sizeof to->bus_id, "%08X:%02X:%02X.%X", id[0], id[1] & 0xff, id[2] & 0xff, id[3] & 0xf);
    to->domain = id[0];
    to->bus = id[1];
    to->device = id[2];
    if (d != NULL && d->figures[G_pci_device_id] != MISSING)
        to->device_id = (uint32_t)d->figures[G_pci_device_id];
    if (d != NULL && d->figures[G_pci_subsystem_id] != MISSING)
        to->subsystem_id = (uint32_t)d->figures[G_pci_subsystem_id];
    return SUCCESS;
}

Return nvmlDeviceGetPciInfo_v3(DeviceHandle handle, PciInfo *to)
{
    BEGIN_GPU(nvmlDeviceGetPciInfo_v3, handle);
    return give_pci(to, d->pci_bus_id, d);
}

Return nvmlDeviceGetAttributes_v2(DeviceHandle handle, Attributes *to)
{
    BEGIN_ANY(nvmlDeviceGetAttributes_v2, handle);
    NEED(to != NULL);
    SUPPORTED(d->figures[G_mig_mode] != MISSING);
    memset(to, 0, sizeof *to);
    to->multiprocessors = t.mig != NULL ? t.mig->multiprocessors : (uint32_t)d->figures[G_multiprocessors];
    to->gpu_slices = t.mig != NULL ? t.mig->gpu_slices : 0;
    to->compute_slices = t.mig != NULL ? t.mig->compute_slices : 0;
    to->memory_mib = (uint64_t)(t.mig != NULL ? t.mig->memory_total : d->figures[G_memory_total]) >> 20;
    return SUCCESS;
}

#define UINT_GETTER(function, figure) \
    Return function(DeviceHandle handle, unsigned *to) \
    { \
        BEGIN_GPU(function, handle); \
        return give_uint(d, G_##figure, to); \
    }

UINT_GETTER(nvmlDeviceGetArchitecture, architecture)
UINT_GETTER(nvmlDeviceGetBoardId, board_id)
UINT_GETTER(nvmlDeviceGetBrand, brand)
UINT_GETTER(nvmlDeviceGetCurrPcieLinkGeneration, pcie_generation)
UINT_GETTER(nvmlDeviceGetCurrPcieLinkWidth, pcie_width)
UINT_GETTER(nvmlDeviceGetEnforcedPowerLimit, power_limit_enforced_mw)
UINT_GETTER(nvmlDeviceGetFanSpeed, fan_percent)
UINT_GETTER(nvmlDeviceGetMaxPcieLinkGeneration, pcie_max_generation)
UINT_GETTER(nvmlDeviceGetMaxPcieLinkWidth, pcie_max_width)
UINT_GETTER(nvmlDeviceGetMemoryBusWidth, memory_bus_bits)
UINT_GETTER(nvmlDeviceGetNumGpuCores, cores)
UINT_GETTER(nvmlDeviceGetNumaNodeId, gpu_numa_node)
UINT_GETTER(nvmlDeviceGetPcieReplayCounter, pcie_replays)
UINT_GETTER(nvmlDeviceGetPerformanceState, performance_state)
UINT_GETTER(nvmlDeviceGetPersistenceMode, persistence)
UINT_GETTER(nvmlDeviceGetPowerManagementDefaultLimit, power_limit_default_mw)
UINT_GETTER(nvmlDeviceGetPowerManagementLimit, power_limit_mw)

Return nvmlDeviceGetPowerManagementLimitConstraints(DeviceHandle handle, unsigned *least, unsigned *most)
{
    BEGIN_GPU(nvmlDeviceGetPowerManagementLimitConstraints, handle);
    Return error = give_uint(d, G_power_limit_min_mw, least);
    return error != SUCCESS ? error : give_uint(d, G_power_limit_max_mw, most);
}

/* ------------------------------------------------------------------ what a device does */

static void read_memory(const Target *t, uint64_t *total, uint64_t *used, uint64_t *reserved)
{
    const Device *d = t->device;
    *total = (uint64_t)(t->mig != NULL ? t->mig->memory_total : d->figures[G_memory_total]);
    *used = (uint64_t)(t->mig != NULL ? t->mig->memory_used : d->figures[G_memory_used]);
    bool keeps = t->mig == NULL && d->figures[G_memory_reserved] != MISSING;
    *reserved = keeps ? (uint64_t)d->figures[G_memory_reserved] : 0;
}

/* Used memory includes what the driver keeps for itself here, and does not in the second version. */
Return nvmlDeviceGetMemoryInfo(DeviceHandle handle, MemoryInfo *to)
{
    BEGIN_ANY(nvmlDeviceGetMemoryInfo, handle);
    uint64_t total, used, reserved;
    NEED(to != NULL);
    SUPPORTED(d->figures[G_memory_total] != MISSING && d->figures[G_memory_used] != MISSING);
    read_memory(&t, &total, &used, &reserved);
    *to = (MemoryInfo){total, total - used, used};
    return SUCCESS;
}

Return nvmlDeviceGetMemoryInfo_v2(DeviceHandle handle, MemoryInfoV2 *to)
{
    BEGIN_ANY(nvmlDeviceGetMemoryInfo_v2, handle);
    uint64_t total, used, reserved;
    NEED(to != NULL);
    if (to->version != (sizeof *to | 2u << 24))
        return VERSION_MISMATCH;
    SUPPORTED(d->figures[G_memory_total] != MISSING && d->figures[G_memory_used] != MISSING);
    read_memory(&t, &total, &used, &reserved);
    to->total = total;
    to->reserved = reserved;
    to->free = total - used;
    to->used = used - reserved;
    return SUCCESS;
}

Return nvmlDeviceGetBAR1MemoryInfo(DeviceHandle handle, MemoryInfo *to)
{
    BEGIN_GPU(nvmlDeviceGetBAR1MemoryInfo, handle);
    NEED(to != NULL);
    SUPPORTED(d->figures[G_bar1_total] != MISSING && d->figures[G_bar1_used] != MISSING);
    uint64_t total = (uint64_t)d->figures[G_bar1_total], used = (uint64_t)d->figures[G_bar1_used];
    *to = (MemoryInfo){total, total - used, used}; /* the same three numbers in the same order */
    return SUCCESS;
}

/* Under MIG the driver has no utilization, of the GPU as little as of its instances. */
Return nvmlDeviceGetUtilizationRates(DeviceHandle handle, Utilization *to)
{
    BEGIN_GPU(nvmlDeviceGetUtilizationRates, handle);
    NEED(to != NULL);
    SUPPORTED(d->figures[G_mig_mode] != 1 && d->figures[G_utilization_gpu] != MISSING);
    to->gpu = (uint32_t)d->figures[G_utilization_gpu];
    to->memory = d->figures[G_utilization_memory] == MISSING ? 0 : (uint32_t)d->figures[G_utilization_memory];
    return SUCCESS;
}

static Return give_codec(const Device *d, int figure, unsigned *to, unsigned *period_us)
{
    NEED(period_us != NULL);
    *period_us = 167000;
    return d->figures[G_mig_mode] == 1 ? NOT_SUPPORTED : give_uint(d, figure, to);
}

Return nvmlDeviceGetEncoderUtilization(DeviceHandle handle, unsigned *to, unsigned *period_us)
{
    BEGIN_GPU(nvmlDeviceGetEncoderUtilization, handle);
    return give_codec(d, G_utilization_encoder, to, period_us);
}

Return nvmlDeviceGetDecoderUtilization(DeviceHandle handle, unsigned *to, unsigned *period_us)
{
    BEGIN_GPU(nvmlDeviceGetDecoderUtilization, handle);
    return give_codec(d, G_utilization_decoder, to, period_us);
}

Return nvmlDeviceGetTemperature(DeviceHandle handle, unsigned sensor, unsigned *to)
{
    BEGIN_GPU(nvmlDeviceGetTemperature, handle);
    NEED(sensor == 0);
    return give_uint(d, G_temperature, to);
}

Return nvmlDeviceGetTemperatureV(DeviceHandle handle, TemperatureV1 *to)
{
    BEGIN_GPU(nvmlDeviceGetTemperatureV, handle);
    NEED(to != NULL && to->sensor == 0);
    if (to->version != (sizeof *to | 1u << 24))
        return VERSION_MISMATCH;
    SUPPORTED(d->figures[G_temperature] != MISSING);
    to->celsius = (int32_t)d->figures[G_temperature];
    return SUCCESS;
}

Return nvmlDeviceGetTemperatureThreshold(DeviceHandle handle, unsigned threshold, unsigned *to)
{
    BEGIN_GPU(nvmlDeviceGetTemperatureThreshold, handle);
    SUPPORTED(threshold <= 1);
    return give_uint(d, threshold == 0 ? G_temperature_shutdown : G_temperature_slowdown, to);
}

Return nvmlDeviceGetClockInfo(DeviceHandle handle, unsigned clock, unsigned *to)
{
    static const int figures[] = {G_clock_graphics, G_clock_sm, G_clock_memory, G_clock_video};
    BEGIN_GPU(nvmlDeviceGetClockInfo, handle);
    NEED(clock < 4);
    return give_uint(d, figures[clock], to);
}

Return nvmlDeviceGetMaxClockInfo(DeviceHandle handle, unsigned clock, unsigned *to)
{
    static const int figures[] = {
        G_clock_max_graphics, G_clock_max_sm, G_clock_max_memory, G_clock_max_video};
    BEGIN_GPU(nvmlDeviceGetMaxClockInfo, handle);
    NEED(clock < 4);
    return give_uint(d, figures[clock], to);
}

#define ULL_GETTER(function, figure) \
    Return function(DeviceHandle handle, uint64_t *to) \
    { \
        BEGIN_GPU(function, handle); \
        return give_ull(d, G_##figure, to); \
    }

ULL_GETTER(nvmlDeviceGetCurrentClocksEventReasons, throttle_reasons)
ULL_GETTER(nvmlDeviceGetCurrentClocksThrottleReasons, throttle_reasons)
ULL_GETTER(nvmlDeviceGetSupportedClocksEventReasons, throttle_reasons_supported)
ULL_GETTER(nvmlDeviceGetSupportedClocksThrottleReasons, throttle_reasons_supported)
ULL_GETTER(nvmlDeviceGetSupportedEventTypes, event_types)

Return nvmlDeviceGetPcieThroughput(DeviceHandle handle, unsigned direction, unsigned *to)
{
    BEGIN_GPU(nvmlDeviceGetPcieThroughput, handle);
    NEED(direction < 2);
    return give_uint(d, direction == 0 ? G_pcie_tx_kb_per_s : G_pcie_rx_kb_per_s, to);
}

Return nvmlDeviceGetEccMode(DeviceHandle handle, unsigned *current, unsigned *pending)
{
    BEGIN_GPU(nvmlDeviceGetEccMode, handle);
    Return error = give_uint(d, G_ecc, current);
    return error != SUCCESS ? error : give_uint(d, G_ecc, pending);
}

static Return give_ecc(const Device *d, unsigned type, unsigned aggregate, uint64_t *to)
{
    static const int figures[2][2] = {
        {G_ecc_corrected, G_ecc_corrected_aggregate}, {G_ecc_uncorrected, G_ecc_uncorrected_aggregate}};
    NEED(type < 2 && aggregate < 2);
    SUPPORTED(d->figures[G_ecc] == 1);
    return give_ull(d, figures[type][aggregate], to);
}

Return nvmlDeviceGetTotalEccErrors(DeviceHandle handle, unsigned type, unsigned aggregate, uint64_t *to)
{
    BEGIN_GPU(nvmlDeviceGetTotalEccErrors, handle);
    return give_ecc(d, type, aggregate, to);
}

/* Device memory is the only place where the model has errors. */
Return nvmlDeviceGetMemoryErrorCounter(
    DeviceHandle handle, unsigned type, unsigned aggregate, unsigned place, uint64_t *to)
{
    BEGIN_GPU(nvmlDeviceGetMemoryErrorCounter, handle);
    SUPPORTED(place == 2);
    return give_ecc(d, type, aggregate, to);
}

/* ------------------------------------------------------------------ processes */

static Return give_processes(Target *t, bool graphics, unsigned *count, ProcessInfo *to)
{
    Device *d = t->device;
    NEED(count != NULL);
    SUPPORTED(d->figures[G_process_lists] == 1);
    unsigned room = to == NULL ? 0 : *count, found;
    uint64_t before;
    do {
        before = begin_reading(d);
        found = 0;
        for (uint64_t i = 0; i < d->processes_used && i < PROCESSES; i++) {
            const Process *p = &d->processes[i];
            if ((p->graphics != 0) != graphics)
                continue;
            if (t->mig != NULL && (p->gpu_instance != t->mig->gpu_instance
                                   || p->compute_instance != t->mig->compute_instance))
                continue;
            if (found < room)
                to[found] = (ProcessInfo){p->pid, p->memory, p->gpu_instance, p->compute_instance};
            found++;
        }
    } while (changed_since(d, before));
    *count = found;
    return found > room ? INSUFFICIENT_SIZE : SUCCESS;
}

Return nvmlDeviceGetComputeRunningProcesses_v3(DeviceHandle handle, unsigned *count, ProcessInfo *to)
{
    BEGIN_ANY(nvmlDeviceGetComputeRunningProcesses_v3, handle);
    return give_processes(&t, false, count, to);
}

Return nvmlDeviceGetGraphicsRunningProcesses_v3(DeviceHandle handle, unsigned *count, ProcessInfo *to)
{
    BEGIN_ANY(nvmlDeviceGetGraphicsRunningProcesses_v3, handle);
    return give_processes(&t, true, count, to);
}

/* One sample per process and sixth of a second, stamped in microseconds since the Unix epoch. */
Return nvmlDeviceGetProcessUtilization(
    DeviceHandle handle, ProcessSample *to, unsigned *count, uint64_t seen_us)
{
    const int64_t period_ns = 1000000000 / 6;
    BEGIN_GPU(nvmlDeviceGetProcessUtilization, handle);
    NEED(count != NULL);
    SUPPORTED(d->figures[G_process_utilization] == 1 && d->figures[G_mig_mode] != 1);
    int64_t time_ns = now_ns(t.state);
    uint64_t stamp_us = (uint64_t)((t.state->origin_unix_ns + time_ns - time_ns % period_ns) / 1000);
    if (stamp_us <= seen_us)
        return NOT_FOUND;
    unsigned room = to == NULL ? 0 : *count, found;
    uint64_t before;
    do {
        before = begin_reading(d);
        found = 0;
        for (uint64_t i = 0; i < d->processes_used && i < PROCESSES; i++) {
            const Process *p = &d->processes[i];
            if (p->utilization[0] == UINT32_MAX)
                continue;
            if (found < room) {
                to[found].pid = p->pid;
                to[found].time_us = stamp_us;
                memcpy(to[found].utilization, p->utilization, sizeof p->utilization);
            }
            found++;
        }
    } while (changed_since(d, before));
    *count = found;
    if (found == 0)
        return NOT_FOUND;
    return found > room ? INSUFFICIENT_SIZE : SUCCESS;
}

/* ------------------------------------------------------------------ MIG */

Return nvmlDeviceGetMigMode(DeviceHandle handle, unsigned *current, unsigned *pending)
{
    BEGIN_GPU(nvmlDeviceGetMigMode, handle);
    Return error = give_uint(d, G_mig_mode, current);
    return error != SUCCESS ? error : give_uint(d, G_mig_mode, pending);
}

Return nvmlDeviceGetMaxMigDeviceCount(DeviceHandle handle, unsigned *to)
{
    BEGIN_GPU(nvmlDeviceGetMaxMigDeviceCount, handle);
    NEED(to != NULL);
    *to = d->figures[G_mig_mode] == 1 ? (unsigned)d->figures[G_mig_max] : 0; /* 0: cannot be split, or is not */
    return SUCCESS;
}

Return nvmlDeviceGetMigDeviceHandleByIndex(DeviceHandle handle, unsigned index, DeviceHandle *to)
{
    BEGIN_GPU(nvmlDeviceGetMigDeviceHandleByIndex, handle);
    NEED(to != NULL);
    SUPPORTED(d->figures[G_mig_mode] != MISSING);
    if (d->figures[G_mig_mode] != 1)
        return NOT_FOUND;
    NEED(index < (unsigned)d->figures[G_mig_max]);
    if (index >= MIGS || d->migs[index].uuid[0] == '\0')
        return NOT_FOUND;
    *to = handle_of(t.index, (int)index);
    return SUCCESS;
}

Return nvmlDeviceIsMigDeviceHandle(DeviceHandle handle, unsigned *to)
{
    BEGIN_ANY(nvmlDeviceIsMigDeviceHandle, handle);
    NEED(to != NULL);
    *to = t.mig != NULL;
    return SUCCESS;
}

Return nvmlDeviceGetDeviceHandleFromMigDeviceHandle(DeviceHandle handle, DeviceHandle *to)
{
    BEGIN_ANY(nvmlDeviceGetDeviceHandleFromMigDeviceHandle, handle);
    NEED(to != NULL && t.mig != NULL);
    *to = handle_of(t.index, -1);
    return SUCCESS;
}

Return nvmlDeviceGetGpuInstanceId(DeviceHandle handle, unsigned *to)
{
    BEGIN_ANY(nvmlDeviceGetGpuInstanceId, handle);
    NEED(to != NULL);
    SUPPORTED(t.mig != NULL);
    *to = t.mig->gpu_instance;
    return SUCCESS;
}

Return nvmlDeviceGetComputeInstanceId(DeviceHandle handle, unsigned *to)
{
    BEGIN_ANY(nvmlDeviceGetComputeInstanceId, handle);
    NEED(to != NULL);
    SUPPORTED(t.mig != NULL);
    *to = t.mig->compute_instance;
    return SUCCESS;
}

/* ------------------------------------------------------------------ topology */

/* Pairs: the first handle's device has the say in errors, the second must be there. */
static Return enter_pair(int function, DeviceHandle one, DeviceHandle other, Target *a, Target *b)
{
    Return error = enter_gpu(function, one, a);
    if (error != SUCCESS)
        return error;
    if (!resolve(a->state, other, b))
        return INVALID_ARGUMENT;
    SUPPORTED(b->mig == NULL);
    return device_error(b->device, function);
}

Return nvmlDeviceGetTopologyCommonAncestor(DeviceHandle one, DeviceHandle other, int *to)
{
    Target a, b;
    Return error = enter_pair(F_nvmlDeviceGetTopologyCommonAncestor, one, other, &a, &b);
    if (error != SUCCESS)
        return error;
    NEED(to != NULL);
    SUPPORTED(a.device->levels[b.index] >= 0);
    *to = a.device->levels[b.index];
    return SUCCESS;
}

Return nvmlDeviceGetTopologyNearestGpus(DeviceHandle handle, int level, unsigned *count, DeviceHandle *to)
{
    BEGIN_GPU(nvmlDeviceGetTopologyNearestGpus, handle);
    NEED(count != NULL);
    unsigned room = *count, found = 0;
    for (unsigned i = 0; i < t.state->devices_used; i++) {
        if (i == t.index || d->levels[i] != level)
            continue;
        if (to != NULL && found < room)
            to[found] = handle_of(i, -1);
        found++;
    }
    *count = found;
    return SUCCESS;
}

Return nvmlDeviceGetP2PStatus(DeviceHandle one, DeviceHandle other, unsigned capability, int *to)
{
    Target a, b;
    Return error = enter_pair(F_nvmlDeviceGetP2PStatus, one, other, &a, &b);
    if (error != SUCCESS)
        return error;
    NEED(to != NULL && capability < PEER_CAPABILITIES && a.index != b.index);
    *to = a.device->peers[b.index][capability];
    return SUCCESS;
}

Return nvmlDeviceOnSameBoard(DeviceHandle one, DeviceHandle other, int *to)
{
    Target a, b;
    Return error = enter_pair(F_nvmlDeviceOnSameBoard, one, other, &a, &b);
    if (error != SUCCESS)
        return error;
    NEED(to != NULL);
    *to = a.index != b.index && a.device->levels[b.index] == 0;
    return SUCCESS;
}

static Return give_words(const uint64_t words[CPU_WORDS], unsigned size, uint64_t *to)
{
    NEED(to != NULL && size > 0);
    bool any = false;
    for (unsigned i = 0; i < CPU_WORDS; i++)
        any = any || words[i] != 0;
    SUPPORTED(any);
    for (unsigned i = 0; i < size; i++)
        to[i] = i < CPU_WORDS ? words[i] : 0;
    for (unsigned i = size; i < CPU_WORDS; i++)
        if (words[i] != 0)
            return INSUFFICIENT_SIZE;
    return SUCCESS;
}

Return nvmlDeviceGetCpuAffinity(DeviceHandle handle, unsigned size, uint64_t *to)
{
    BEGIN_GPU(nvmlDeviceGetCpuAffinity, handle);
    return give_words(d->cpus[0], size, to);
}

Return nvmlDeviceGetCpuAffinityWithinScope(DeviceHandle handle, unsigned size, uint64_t *to, unsigned scope)
{
    BEGIN_GPU(nvmlDeviceGetCpuAffinityWithinScope, handle);
    NEED(scope < 2);
    return give_words(d->cpus[scope], size, to);
}

Return nvmlDeviceGetMemoryAffinity(DeviceHandle handle, unsigned size, uint64_t *to, unsigned scope)
{
    BEGIN_GPU(nvmlDeviceGetMemoryAffinity, handle);
    NEED(scope < 2);
    return give_words(d->nodes[scope], size, to);
}

/* ------------------------------------------------------------------ NVLink */

#define BEGIN_LINK(function, handle, link) \
    BEGIN_GPU(function, handle); \
    SUPPORTED(d->figures[G_nvlinks] != MISSING); \
    NEED(link < (unsigned)d->figures[G_nvlinks] && link < LINKS); \
    Link *l = &d->links[link]

Return nvmlDeviceGetNvLinkState(DeviceHandle handle, unsigned link, unsigned *to)
{
    BEGIN_LINK(nvmlDeviceGetNvLinkState, handle, link);
    NEED(to != NULL);
    *to = l->active;
    return SUCCESS;
}

Return nvmlDeviceGetNvLinkVersion(DeviceHandle handle, unsigned link, unsigned *to)
{
    BEGIN_LINK(nvmlDeviceGetNvLinkVersion, handle, link);
    NEED(to != NULL);
    *to = l->version;
    return SUCCESS;
}

/* P2P over NVLink, access to system memory, atomics of both, SLI, validity. */
Return nvmlDeviceGetNvLinkCapability(DeviceHandle handle, unsigned link, unsigned capability, unsigned *to)
{
    BEGIN_LINK(nvmlDeviceGetNvLinkCapability, handle, link);
    NEED(to != NULL && capability < 6);
    *to = l->active && (capability == 0 || capability == 2 || capability == 5);
    return SUCCESS;
}

Return nvmlDeviceGetNvLinkRemoteDeviceType(DeviceHandle handle, unsigned link, unsigned *to)
{
    BEGIN_LINK(nvmlDeviceGetNvLinkRemoteDeviceType, handle, link);
    NEED(to != NULL);
    SUPPORTED(l->active);
    *to = l->remote_type;
    return SUCCESS;
}

Return nvmlDeviceGetNvLinkRemotePciInfo_v2(DeviceHandle handle, unsigned link, PciInfo *to)
{
    BEGIN_LINK(nvmlDeviceGetNvLinkRemotePciInfo_v2, handle, link);
    SUPPORTED(l->active);
    return give_pci(to, l->remote_bus_id, NULL);
}

Return nvmlDeviceGetNvLinkErrorCounter(DeviceHandle handle, unsigned link, unsigned counter, uint64_t *to)
{
    BEGIN_LINK(nvmlDeviceGetNvLinkErrorCounter, handle, link);
    NEED(to != NULL && counter < 5);
    *to = counter == 0 ? l->errors : 0;
    return SUCCESS;
}

/* ------------------------------------------------------------------ fields by number */

enum { DOUBLE = 0, UNSIGNED_INT = 1, UNSIGNED_LONG_LONG = 3, ALL_LINKS = 0xffffffff };

static Return field_uint(FieldValue *v, const Device *d, int figure)
{
    v->type = UNSIGNED_INT;
    return give_uint(d, figure, &v->value.u);
}

static Return field_ecc(FieldValue *v, const Device *d, unsigned type, unsigned aggregate)
{
    v->type = UNSIGNED_LONG_LONG;
    return give_ecc(d, type, aggregate, &v->value.ull);
}

static Return field_link(FieldValue *v, const Device *d)
{
    SUPPORTED(d->figures[G_nvlinks] != MISSING);
    unsigned count = (unsigned)d->figures[G_nvlinks];
    NEED(v->scope == ALL_LINKS || v->scope < count);
    unsigned first = v->scope == ALL_LINKS ? 0 : v->scope, last = v->scope == ALL_LINKS ? count : v->scope + 1;
    v->type = UNSIGNED_LONG_LONG;
    v->value.ull = 0;
    for (unsigned i = first; i < last && i < LINKS; i++) {
        const Link *l = &d->links[i];
        if (v->field == 164)
            v->value.ull += l->active ? l->speed_mbps : 0;
        else /* data without and with the protocol's overhead: the model has one number for both */
            v->value.ull += v->field == 138 || v->field == 140 ? l->transmitted_kib : l->received_kib;
    }
    return SUCCESS;
}

static Return read_field(FieldValue *v, Target *t)
{
    Device *d = t->device;
    int64_t time_ns = now_ns(t->state);
    bool of_power = v->field == 83 || v->field == 185 || v->field == 186;
    SUPPORTED(t->mig == NULL || of_power);
    switch (v->field) {
    case 1: case 2: return field_uint(v, d, G_ecc);
    case 3: return field_ecc(v, d, 0, 0);
    case 4: return field_ecc(v, d, 1, 0);
    case 5: return field_ecc(v, d, 0, 1);
    case 6: return field_ecc(v, d, 1, 1);
    case 82: return field_uint(v, d, G_temperature_memory);
    case 83: /* total energy */
        SUPPORTED(d->figures[G_energy_counter] == 1);
        v->type = UNSIGNED_LONG_LONG;
        v->value.ull = counter_mj(d, time_ns);
        return SUCCESS;
    case 90: return field_uint(v, d, G_nvlink_speed_mbps);
    case 91: return field_uint(v, d, G_nvlinks);
    case 94: return field_uint(v, d, G_pcie_replays);
    case 138: case 139: case 140: case 141: case 164: return field_link(v, d);
    case 185: case 186: /* power: average, instant */
        SUPPORTED(d->figures[G_power] == 1 && d->figures[G_instant_power] == 1);
        v->type = UNSIGNED_INT;
        v->value.u = v->field == 185 ? average_mw(d, time_ns) : instant_mw(d, time_ns);
        return SUCCESS;
    case 187: return field_uint(v, d, G_power_limit_min_mw);
    case 188: return field_uint(v, d, G_power_limit_max_mw);
    case 189: return field_uint(v, d, G_power_limit_default_mw);
    case 190: return field_uint(v, d, G_power_limit_enforced_mw);
    case 192: return field_uint(v, d, G_power_limit_mw);
    default: return NOT_SUPPORTED;
    }
}

Return nvmlDeviceGetFieldValues(DeviceHandle handle, int count, FieldValue *values)
{
    BEGIN_POWER(nvmlDeviceGetFieldValues, handle);
    NEED(values != NULL && count > 0);
    for (int i = 0; i < count; i++) {
        values[i].time_us = (t.state->origin_unix_ns + now_ns(t.state)) / 1000;
        values[i].latency_us = 0;
        values[i].value.ull = 0;
        values[i].answer = read_field(&values[i], &t);
    }
    return SUCCESS;
}

/* ------------------------------------------------------------------ events */

typedef struct {
    atomic_int used;
    uint64_t types[DEVICES];
    uint64_t seen[DEVICES];
} Registrations;

static Registrations sets[SETS];

static Registrations *set_of(EventSet set)
{
    uintptr_t index = (uintptr_t)set - FIRST_SET;
    return (uintptr_t)set >= FIRST_SET && index < SETS && atomic_load(&sets[index].used) ? &sets[index] : NULL;
}

Return nvmlEventSetCreate(EventSet *to)
{
    BEGIN_SYSTEM(nvmlEventSetCreate);
    (void)s;
    NEED(to != NULL);
    for (unsigned i = 0; i < SETS; i++) {
        int unused = 0;
        if (atomic_compare_exchange_strong(&sets[i].used, &unused, 1)) {
            memset(sets[i].types, 0, sizeof sets[i].types);
            *to = (EventSet)(uintptr_t)(FIRST_SET + i);
            return SUCCESS;
        }
    }
    return MEMORY;
}

Return nvmlEventSetFree(EventSet set)
{
    BEGIN_SYSTEM(nvmlEventSetFree);
    (void)s;
    Registrations *r = set_of(set);
    NEED(r != NULL);
    atomic_store(&r->used, 0);
    return SUCCESS;
}

Return nvmlDeviceRegisterEvents(DeviceHandle handle, uint64_t types, EventSet set)
{
    BEGIN_GPU(nvmlDeviceRegisterEvents, handle);
    Registrations *r = set_of(set);
    NEED(r != NULL);
    SUPPORTED(d->figures[G_event_types] != MISSING && (types & ~(uint64_t)d->figures[G_event_types]) == 0);
    if (r->types[t.index] == 0)
        r->seen[t.index] = d->events_ever;
    r->types[t.index] |= types;
    return SUCCESS;
}

static Return next_event(State *s, Registrations *r, EventData *to)
{
    Return lost = TIMEOUT;
    for (unsigned i = 0; i < s->devices_used; i++) {
        Device *d = &s->devices[i];
        if (r->types[i] == 0)
            continue;
        if (d->events_ever - r->seen[i] > EVENTS)
            r->seen[i] = d->events_ever - EVENTS; /* the ring went round: the oldest are gone */
        while (r->seen[i] < d->events_ever) {
            Event e = d->events[r->seen[i]++ % EVENTS];
            if ((e.type & r->types[i]) == 0)
                continue;
            *to = (EventData){handle_of(i, -1), e.type, e.data, UINT32_MAX, UINT32_MAX};
            return SUCCESS;
        }
        if (d->figures[G_lost] == 1)
            lost = GPU_IS_LOST;
    }
    return lost;
}

Return nvmlEventSetWait_v2(EventSet set, EventData *to, unsigned timeout_ms)
{
    BEGIN_SYSTEM(nvmlEventSetWait_v2);
    Registrations *r = set_of(set);
    NEED(r != NULL && to != NULL);
    int64_t deadline = clock_ns(CLOCK_MONOTONIC) + (int64_t)timeout_ms * 1000000;
    for (;;) {
        Return answer = next_event(s, r, to);
        if (answer != TIMEOUT || clock_ns(CLOCK_MONOTONIC) >= deadline)
            return answer;
        nanosleep(&MILLISECOND, NULL);
    }
}
