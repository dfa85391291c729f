// Between blocks: counters in global memory, and what a block may read once it has found one high enough.
//
//     block A:   writes, __syncthreads, thread 0: signal(counter)           (release: what the block wrote before)
//     block B:   thread 0: await(counter, count), __syncthreads, reads      (acquire: for all of the block, by the barrier)
//
// Reads go past L1, which other SMs do not write. On a CPU the blocks run by turns on one OS thread (host.hpp).
// Source: PTX ISA, "Memory Consistency Model": release and acquire patterns, and causality order through bar.sync.
#pragma once
#include "device.cuh"

// Adds 1 and returns what was there. All that the block has written before its last barrier is seen by who finds the sum.
__device__ __forceinline__ unsigned signal(unsigned *counter) {
#if ON_GPU
    unsigned before;
    asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;" : "=r"(before) : "l"(counter) : "memory");
    return before;
#else
    return host::signal(counter);
#endif
}

// The same where only the number matters: nothing that was written is seen by it, nothing waits for what was.
__device__ __forceinline__ unsigned take(unsigned *counter) {
#if ON_GPU
    unsigned before;
    asm volatile("atom.relaxed.gpu.global.add.u32 %0, [%1], 1;" : "=r"(before) : "l"(counter) : "memory");
    return before;
#else
    return host::take(counter);
#endif
}

// Waits until the counter is `count` or more.
__device__ __forceinline__ void await(const unsigned *counter, unsigned count) {
#if ON_GPU
    for (;;) {
        unsigned now;
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(now) : "l"(counter) : "memory");
        if (now >= count) return;
        __nanosleep(20);
    }
#else
    host::await(counter, count);
#endif
}

// 16 or 8 bytes that another block has written.
template <typename T> __device__ __forceinline__ uint4 load_fresh(const T *p) {
#if ON_GPU
    uint4 v;
    asm volatile("ld.global.cg.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p) : "memory");
    return v;
#else
    return load_words(p);
#endif
}
template <typename T> __device__ __forceinline__ uint2 load_fresh_pair(const T *p) {
#if ON_GPU
    uint2 v;
    asm volatile("ld.global.cg.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p) : "memory");
    return v;
#else
    return *reinterpret_cast<const uint2 *>(p);
#endif
}

// Brings the line of an address to L2. On a CPU the address is read, so that the sanitizer sees one that is nobody's.
__device__ __forceinline__ void prefetch(const void *p) {
#if ON_GPU
    asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
#else
    (void)*static_cast<const volatile char *>(p);
#endif
}
