// CUDA C++ on a CPU: blocks, threads, barriers, shared memory, shuffles, asynchronous copies and warp-wide matrix products.
//
// The .cu files include this header where no CUDA compiler reads them, and g++ compiles them unchanged. A kernel runs block by
// block, blocks in parallel on a few OS threads. Inside a block each CUDA thread is a fiber, so that __syncthreads and warp-wide
// instructions can suspend it; a kernel that is launched as one without barriers needs no fibers and runs as a plain loop. Blocks
// that wait for one another (between.cuh) run by turns on one OS thread (turns.hpp), in an order that the launch asks for.
//
// What a GPU would do silently wrong is an error here: a barrier that not all threads of a block reach, or that they reach on
// different lines, a misaligned vector access, shared memory read before its asynchronous copy was waited for (it holds NaN), blocks
// of which each waits for another. A build that watches accesses finds races, too (race.hpp).
#pragma once
// C's math.h alone: libstdc++'s brings <cmath>, which takes a third of a small kernel's compilation.
#define _GLIBCXX_INCLUDE_NEXT_C_HEADERS
#include <math.h>
#undef _GLIBCXX_INCLUDE_NEXT_C_HEADERS
#include <pthread.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#ifdef WATCHED  // built to look for races (race.hpp): what the emulation itself does is no access of a kernel's
#define UNWATCHED __attribute__((no_sanitize("thread")))
#else
#define UNWATCHED
#endif
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__
#define __align__(n) alignas(n)
#define __launch_bounds__(...)
// One block at a time runs on an OS thread, so a static per OS thread is what its threads share.
#define __shared__ static thread_local

struct dim3 {
    unsigned x, y, z;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(16) float4 {
    float x, y, z, w;
};

template <typename V> inline V min(V a, V b) { return b < a ? b : a; }
template <typename V> inline V max(V a, V b) { return a < b ? b : a; }

namespace host {

// Address sanitizer follows stacks through swapcontext only, and its frames are larger.
#ifdef __SANITIZE_ADDRESS__
constexpr bool SANITIZED = true;
constexpr size_t STACK = 512 * 1024;
#else
constexpr bool SANITIZED = false;
constexpr size_t STACK = 64 * 1024;  // accumulators of a thread take at most 1 KB; the rest is for printf in a debug session
#endif
constexpr int WARP = 32;
constexpr int COPIES = 256;  // asynchronous copies a thread may have in flight

struct Gate {  // where threads wait until `expected` of them have come
    unsigned epoch = 0;
    int arrived = 0, expected = 0, line = 0;
};

struct Copy {
    void *to;
    const void *from;
    unsigned bytes, zeros;
};

struct Warp {
    Gate gate;
    unsigned syncs = 0;  // of memory: __syncwarp's
    // Two sets, used in turn: a lane that runs ahead to the next exchange must not overwrite what others have yet to read.
    alignas(16) unsigned char value[2][WARP][16];
    void *operands[WARP][3];
};

struct Thread {
    dim3 index;
    int lane = 0;
    Warp *warp = nullptr;
    Gate *waits = nullptr;
    unsigned epoch = 0;
    bool started = false, done = true, paused = false;
    ucontext_t context;
    jmp_buf at;
    char *stack = nullptr;
    Copy copies[COPIES];
    int ends[COPIES];  // number of copies up to the end of each committed group
    int pending = 0, groups = 0;
};

struct Launch {
    void (*body)(const void *);
    const void *params;
    dim3 grid;
    unsigned block;
    size_t shared;
    bool fibers, reversed, together;
    int order;                   // whose turn it is among blocks that wait for one another: an Order, or a seed
    unsigned long long changes;  // of counters that blocks wait for
    unsigned long long next, blocks;
    int failed;
    char *message;
    size_t room;
};

struct Block {
    Launch *launch = nullptr;
    dim3 index;
    Thread *threads = nullptr;
    Thread *self = nullptr;
    Warp *warps = nullptr;
    Gate gate;
    char *shared = nullptr;
    struct Watch *watch = nullptr;
    bool broken = false, counted = false;  // counted: it has changed a counter
    unsigned left = 0;               // threads that have not returned
    unsigned long long seen = ~0ull; // changes of counters when it last had nothing to do but wait for one
    ucontext_t home_context;
    jmp_buf home;
};

// Not `inline`: every kernel's library has its own, whatever flags it was built with.
static thread_local Block *block;

static void yield() {
    Thread *self = block->self;
    if (SANITIZED)
        swapcontext(&self->context, &block->home_context);
    else if (!_setjmp(self->at))
        _longjmp(block->home, 1);
}

[[noreturn]] UNWATCHED static void fail(const char *what) {
    Launch *launch = block->launch;
    if (!__atomic_exchange_n(&launch->failed, 1, __ATOMIC_ACQ_REL)) {
        const dim3 b = block->index;
        const unsigned t = block->self ? block->self->index.x : 0;
        snprintf(launch->message, launch->room, "%s (block %u,%u,%u, thread %u)", what, b.x, b.y, b.z, t);
    }
    block->broken = true;
    if (!launch->fibers) _longjmp(block->home, 1);
    for (;;) yield();
}

static void wait(Gate &gate, const char *what, int line) {
    if (!block->launch->fibers) {
        char text[160];
        snprintf(text, sizeof text, "line %d: %s in a kernel that was launched as one without barriers", line, what);
        fail(text);
    }
    if (gate.arrived == 0)
        gate.line = line;
    else if (gate.line != line) {
        char text[160];
        snprintf(text, sizeof text, "%s: some threads wait on line %d, others on line %d", what, gate.line, line);
        fail(text);
    }
    if (++gate.arrived == gate.expected) {
        gate.arrived = 0;
        ++gate.epoch;
        return;  // the last one goes on; the others follow when it yields
    }
    Thread *self = block->self;
    self->waits = &gate;
    self->epoch = gate.epoch;
    yield();
}

static void sync_warp(int line) {
    Thread *self = block->self;
    if (!block->launch->fibers) wait(block->gate, "__syncwarp", line);
    Warp *warp = self->warp;
    if (warp->gate.arrived == WARP - 1) ++warp->syncs;
    wait(warp->gate, "__syncwarp", line);
}

// v of lane `source`, for all lanes of a warp at once.
template <typename V> V exchange(V v, int source, int line) {
    static_assert(sizeof(V) <= 16, "a lane exchanges at most 16 bytes");
    Thread *self = block->self;
    if (!block->launch->fibers) wait(block->gate, "a warp exchange", line);
    Warp *warp = self->warp;
    const unsigned set = warp->gate.epoch & 1;
    memcpy(warp->value[set][self->lane], &v, sizeof v);
    wait(warp->gate, "a warp exchange", line);
    memcpy(&v, warp->value[set][source & (WARP - 1)], sizeof v);
    return v;
}

// Runs work(operands of all lanes) once, when every lane of the warp has given its three pointers.
template <typename Work> void together(void *a, void *b, void *c, int line, Work work) {
    Thread *self = block->self;
    if (!block->launch->fibers) wait(block->gate, "a warp-wide product", line);
    Warp *warp = self->warp;
    void **mine = warp->operands[self->lane];
    mine[0] = a, mine[1] = b, mine[2] = c;
    if (warp->gate.arrived == WARP - 1) work(warp->operands);
    wait(warp->gate, "a warp-wide product", line);
}

}  // namespace host
#include "race.hpp"
namespace host {

// Counters between blocks (between.cuh). A thread that finds one too low lets other threads and blocks go on before it looks again.
UNWATCHED static unsigned take(unsigned *counter) {
    if (!block->launch->together) fail("a counter between blocks in a launch whose blocks do not run together");
    ++block->launch->changes;
    block->counted = true;
    return (*counter)++;
}
UNWATCHED static unsigned signal(unsigned *counter) {
    const unsigned before = take(counter);
    released(counter);
    return before;
}
UNWATCHED static void await(const unsigned *counter, unsigned count) {
    if (!block->launch->together) fail("a wait for another block in a launch whose blocks do not run together");
    while (*counter < count) {
        block->self->paused = true;
        yield();
    }
    acquired(counter);
}

template <typename V> V *aligned(V *p, const char *what) {
    if (reinterpret_cast<uintptr_t>(p) & 15) fail(what);
    return p;
}

static void fiber_main() {  // a fiber serves the same thread number of block after block
    for (;;) {
        block->launch->body(block->launch->params);
        block->self->done = true;
        yield();
    }
}

static void resume(Thread &thread) {
    block->self = &thread;
    if (!thread.started) {
        thread.started = true;
        getcontext(&thread.context);
        thread.context.uc_stack.ss_sp = thread.stack;
        thread.context.uc_stack.ss_size = STACK;
        thread.context.uc_link = nullptr;
        makecontext(&thread.context, fiber_main, 0);
        if (SANITIZED)
            swapcontext(&block->home_context, &thread.context);
        else if (!_setjmp(block->home))
            setcontext(&thread.context);
    } else if (SANITIZED) {
        swapcontext(&block->home_context, &thread.context);
    } else if (!_setjmp(block->home)) {
        _longjmp(thread.at, 1);
    }
}

UNWATCHED static void stuck(int left) {
    char text[240];
    int waiting = 0, line = 0, exited = int(block->launch->block) - left;
    bool warp = false;
    for (unsigned t = 0; t < block->launch->block; ++t)
        if (!block->threads[t].done && block->threads[t].waits) {
            block->self = &block->threads[t];
            ++waiting, line = block->threads[t].waits->line, warp = block->threads[t].waits != &block->gate;
        }
    snprintf(text, sizeof text, "line %d: %d threads wait at %s that the others never reach (%d of %u have returned)", line,
             waiting, warp ? "a warp-wide instruction" : "a barrier", exited, block->launch->block);
    Launch *launch = block->launch;
    if (!__atomic_exchange_n(&launch->failed, 1, __ATOMIC_ACQ_REL)) snprintf(launch->message, launch->room, "%s", text);
    block->broken = true;
}

static void begin() {
    Launch *launch = block->launch;
    if (launch->shared) memset(block->shared, 0xFF, launch->shared);  // NaN in every format
    block->left = launch->block;
    watch(*block, true);
    for (unsigned t = 0; t < launch->block; ++t) {
        Thread &thread = block->threads[t];
        thread.done = false, thread.waits = nullptr, thread.pending = thread.groups = 0;
    }
}

enum State { MOVED, PAUSED, STUCK, DONE };

// Every thread of the block that can go on does so, up to the next place where it waits.
static State pass() {
    Launch *launch = block->launch;
    bool moved = false, paused = false;
    for (unsigned i = 0; i < launch->block; ++i) {
        Thread &thread = block->threads[launch->reversed ? launch->block - 1 - i : i];
        if (thread.done || (thread.waits && thread.waits->epoch == thread.epoch)) continue;
        thread.waits = nullptr, thread.paused = false;
        resume(thread);
        if (block->broken) return STUCK;
        (thread.paused ? paused : moved) = true;
        if (thread.done) --block->left;
    }
    return !block->left ? DONE : moved ? MOVED : paused ? PAUSED : STUCK;
}

static void run_block() {
    Launch *launch = block->launch;
    const unsigned count = launch->block;
    begin();
    if (!launch->fibers) {
        if (_setjmp(block->home)) return;  // fail() comes here
        for (unsigned i = 0; i < count; ++i) {
            block->self = &block->threads[launch->reversed ? count - 1 - i : i];
            launch->body(launch->params);
        }
        return;
    }
    State state;
    while ((state = pass()) == MOVED) {}
    if (state == STUCK && !block->broken) stuck(block->left);
}

static void make(Block &mine, Launch *launch) {
    mine.launch = launch;
    const unsigned warps = (launch->block + WARP - 1) / WARP;
    mine.threads = new Thread[launch->block];
    mine.warps = new Warp[warps];
    mine.gate.expected = launch->block;
    for (unsigned w = 0; w < warps; ++w) mine.warps[w].gate.expected = WARP;
    for (unsigned t = 0; t < launch->block; ++t) {
        Thread &thread = mine.threads[t];
        thread.index = {t, 0, 0};
        thread.lane = t % WARP;
        thread.warp = &mine.warps[t / WARP];
        if (launch->fibers) thread.stack = static_cast<char *>(malloc(STACK));
    }
    if (launch->shared) mine.shared = static_cast<char *>(aligned_alloc(128, (launch->shared + 127) / 128 * 128));
}

static void release(Block &mine) {
    watch(mine, false);
    for (unsigned t = 0; t < mine.launch->block; ++t) free(mine.threads[t].stack);
    free(mine.shared);
    delete[] mine.warps;
    delete[] mine.threads;
}

static void place(Block &mine, unsigned long long i) {
    const dim3 &grid = mine.launch->grid;
    mine.index = {unsigned(i % grid.x), unsigned(i / grid.x % grid.y), unsigned(i / grid.x / grid.y)};
}

UNWATCHED static void *worker(void *given) {
    Launch *launch = static_cast<Launch *>(given);
    Block mine;
    block = &mine;
    make(mine, launch);
    while (!__atomic_load_n(&launch->failed, __ATOMIC_ACQUIRE)) {
        const unsigned long long i = __atomic_fetch_add(&launch->next, 1, __ATOMIC_RELAXED);
        if (i >= launch->blocks) break;
        place(mine, i);
        run_block();
    }
    release(mine);
    block = nullptr;
    return nullptr;
}

}  // namespace host
#include "turns.hpp"
namespace host {

// ranges: address and bytes of each of `count` tensors.
UNWATCHED static int run(Launch &launch, int workers, const size_t *ranges, int count) {
    launch.next = launch.changes = 0, launch.failed = 0;
    watch_tensors(ranges, count);
    launch.blocks = 1ull * launch.grid.x * launch.grid.y * launch.grid.z;
    if (launch.fibers && launch.block % WARP) {
        snprintf(launch.message, launch.room, "a block of %u threads, expected whole warps of %d", launch.block, WARP);
        return 1;
    }
    if (launch.together && launch.fibers) {
        run_together(launch);
        return launch.failed;
    }
    pthread_t others[64];
    int started = 0;
    while (started < workers - 1 && started < 63 && 1ull * started + 1 < launch.blocks)
        if (pthread_create(&others[started], nullptr, worker, &launch)) break; else ++started;
    worker(&launch);
    for (int i = 0; i < started; ++i) pthread_join(others[i], nullptr);
    return launch.failed;
}

}  // namespace host

#define threadIdx (host::block->self->index)
#define blockIdx (host::block->index)
#define blockDim (dim3{host::block->launch->block, 1, 1})
#define gridDim (host::block->launch->grid)
#define __syncthreads() host::wait(host::block->gate, "__syncthreads", __LINE__)
#define __syncwarp() host::sync_warp(__LINE__)
#define __shfl_xor_sync(mask, v, lanes) host::exchange(v, host::block->self->lane ^ (lanes), __LINE__)
#define __shfl_sync(mask, v, source) host::exchange(v, source, __LINE__)
