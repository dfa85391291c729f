// Races, of a kernel that g++ has built with -fsanitize=thread -DWATCHED: the compiler then calls a function before each access to
// memory, and these are those functions, in the place of ThreadSanitizer's own, which knows neither fibers nor barriers.
//
// Shared memory: two threads of a block touch one place, one of them writing, and no barrier lies between them (__syncthreads; among
// the lanes of a warp __syncwarp, too; shuffles, ldmatrix and mma order no memory). An asynchronous copy writes from where it begins
// to where it is waited for, and nobody may touch its place in between.
//
// Tensors of a launch whose blocks wait for one another (between.cuh): the same, where no release of a counter behind the one access
// and acquire of it before the other order them. What a block knows of the others is a vector clock (Mattern, "Virtual Time and
// Global States of Distributed Systems", 1989); a block's time is the number of its barriers.
#pragma once

namespace host {
#ifndef WATCHED
struct Watch {};
inline void watch(Block &, bool) {}
inline void watch_tensors(const size_t *, int) {}
inline void copy_begins(void *, const void *) {}
inline void copy_ends(void *) {}
inline void released(const unsigned *) {}
inline void acquired(const unsigned *) {}
}  // namespace host
#else
}  // namespace host
#include <algorithm>
#include <dlfcn.h>
#include <map>
#include <vector>
namespace host {
constexpr int GRAIN = 2;       // bytes of a place: a half
constexpr unsigned MOST = 64;  // blocks that wait for one another
constexpr short NOBODY = -1, SEVERAL = -2;
enum Copying { NO, BEGINS, ENDS };

struct Place {  // of shared memory: the thread that wrote it last, and the warp, or several, that read it since the last barrier
    short writer = NOBODY, readers = NOBODY;
    bool copied = false;  // a copy to it is on its way
    unsigned wrote = 0, wrote_sync = 0, read = 0, read_sync = 0, lanes = 0;
};
struct Cell {  // of a tensor: the block, and its thread, that wrote it last; the block, or several, that read it
    short writer = NOBODY, thread = 0, reader = NOBODY;
    unsigned wrote = 0, read = 0;
};
struct Clock {
    unsigned of[MOST] = {};
    UNWATCHED void join(const Clock &other) {
        for (unsigned i = 0; i < MOST; ++i) of[i] = std::max(of[i], other.of[i]);
    }
};
struct Watch {  // of a block
    Place *places = nullptr;
    Clock known, learnt;  // for all threads; for the thread `by` alone, until its next barrier
    unsigned since = 0;
    const Thread *by = nullptr;
};
// Blocks that wait for one another run on one OS thread.
static thread_local std::map<const char *, std::vector<Cell>> tensors;
static thread_local std::map<const unsigned *, Clock> counters;
static thread_local bool looking = false;  // the containers' own accesses are none of a kernel's

[[noreturn]] UNWATCHED static void raced(const char *where, size_t at, const char *what, const char *who, int other, void *code) {
    Dl_info library{};
    dladdr(code, &library);
    char text[300], name[40];
    snprintf(name, sizeof name, other == SEVERAL ? "several %ss" : "%s %d", who, other);
    snprintf(text, sizeof text, "a race in %s, byte %zu: %s by %s, code 0x%zx", where, at, what, name,
             size_t(code) - size_t(library.dli_fbase) - 1);
    looking = false;
    fail(text);
}

UNWATCHED static void touch(size_t i, bool write, Copying copying, void *code) {
    const Thread &self = *block->self;
    Place &q = block->watch->places[i];
    const short thread = short(self.index.x), warp = thread / WARP;
    const unsigned epoch = block->gate.epoch, sync = self.warp->syncs, lane = 1u << self.lane;
    if (q.copied && copying != ENDS) raced("shared memory", i * GRAIN, "touched while a copy is on its way", "thread", q.writer, code);
    if (q.writer != NOBODY && q.writer != thread && q.wrote == epoch && !(q.writer / WARP == warp && q.wrote_sync < sync))
        raced("shared memory", i * GRAIN, write ? "written after a write" : "read after a write", "thread", q.writer, code);
    const bool read = q.readers != NOBODY && q.read == epoch;
    if (!write) {
        if (!read || (q.readers == warp && q.read_sync < sync))
            q.readers = warp, q.read = epoch, q.read_sync = sync, q.lanes = lane;
        else if (q.readers == warp)
            q.lanes |= lane;
        else
            q.readers = SEVERAL;
        return;
    }
    if (read && (q.readers != warp || (q.read_sync == sync && q.lanes & ~lane)))
        raced("shared memory", i * GRAIN, "written after a read", "warp", q.readers, code);
    q.writer = thread, q.wrote = epoch, q.wrote_sync = sync, q.readers = NOBODY, q.copied = copying == BEGINS;
}

UNWATCHED static void touch_tensor(const char *p, size_t bytes, bool write, void *code) {
    auto found = tensors.upper_bound(p);
    if (found == tensors.begin()) return;
    --found;
    std::vector<Cell> &cells = found->second;
    const size_t first = (p - found->first) / GRAIN, last = (p + bytes - 1 - found->first) / GRAIN;
    if (last >= cells.size()) return;
    Watch &w = *block->watch;
    const unsigned epoch = block->gate.epoch;
    if (w.by && w.since != epoch) w.known.join(w.learnt), w.by = nullptr;
    const short me = short(block->index.x), thread = short(block->self->index.x);
    auto knows = [&](short other, unsigned time) UNWATCHED {
        return time < w.known.of[other] || (w.by == block->self && time < w.learnt.of[other]);
    };
    for (size_t i = first; i <= last; ++i) {
        Cell &c = cells[i];
        const size_t at = i * GRAIN;
        if (c.writer == me ? c.wrote == epoch && c.thread != thread : c.writer != NOBODY && !knows(c.writer, c.wrote))
            raced("a tensor", at, write ? "written after a write" : "read after a write", "block", c.writer, code);
        if (!write) {
            const bool ordered = c.reader == NOBODY || c.reader == me || (c.reader != SEVERAL && knows(c.reader, c.read));
            c.reader = ordered ? me : SEVERAL, c.read = epoch;
            continue;
        }
        if (c.reader == SEVERAL || (c.reader != NOBODY && c.reader != me && !knows(c.reader, c.read)))
            raced("a tensor", at, "written after a read", "block", c.reader, code);
        c.writer = me, c.thread = thread, c.wrote = epoch, c.reader = NOBODY;
    }
}

UNWATCHED static void touched(const void *p, size_t bytes, bool write, Copying copying, void *code) {
    if (looking || !block || !block->watch || !block->self || block->broken) return;
    looking = true;
    const size_t at = static_cast<const char *>(p) - block->shared;
    if (at < block->launch->shared)
        for (size_t i = at / GRAIN; i <= (at + bytes - 1) / GRAIN; ++i) touch(i, write, copying, code);
    else if (block->launch->together)
        touch_tensor(static_cast<const char *>(p), bytes, write, code);
    looking = false;
}

UNWATCHED static void copy_begins(void *to, const void *from) {
    void *code = __builtin_return_address(0);
    if (from) touched(from, 16, false, NO, code);
    touched(to, 16, true, BEGINS, code);
}
UNWATCHED static void copy_ends(void *to) { touched(to, 16, true, ENDS, __builtin_return_address(0)); }

// What this thread has learnt by a counter; and what others may learn by it: all that the block did before its last barrier.
UNWATCHED static void acquired(const unsigned *counter) {
    Watch &w = *block->watch;
    looking = true;
    if (w.by && w.since != block->gate.epoch) w.known.join(w.learnt);
    w.learnt.join(counters[counter]), w.by = block->self, w.since = block->gate.epoch;
    looking = false;
}
UNWATCHED static void released(const unsigned *counter) {
    Watch &w = *block->watch;
    looking = true;
    Clock mine = w.known;
    if (w.by) mine.join(w.learnt);
    mine.of[block->index.x] = block->gate.epoch;
    counters[counter].join(mine);
    acquired(counter);
}

// Begins or ends to watch a block.
UNWATCHED static void watch(Block &of, bool begins) {
    looking = true;
    if (of.watch) delete[] of.watch->places;
    if (begins) {
        if (!of.watch) of.watch = new Watch;
        of.watch->places = new Place[of.launch->shared / GRAIN + 1];
    } else {
        delete of.watch;
    }
    looking = false;
}
UNWATCHED static void watch_tensors(const size_t *given, int count) {
    tensors.clear(), counters.clear();
    for (int i = 0; i < count; ++i)
        tensors[reinterpret_cast<const char *>(given[2 * i])].assign((given[2 * i + 1] + GRAIN - 1) / GRAIN, Cell{});
}
}  // namespace host

extern "C" {
#define WATCH(name, bytes, write) \
    UNWATCHED void __tsan_##name(void *p) { host::touched(p, bytes, write, host::NO, __builtin_return_address(0)); }
#define WATCH_ALL(bytes) \
    WATCH(read##bytes, bytes, false) WATCH(write##bytes, bytes, true) \
    WATCH(unaligned_read##bytes, bytes, false) WATCH(unaligned_write##bytes, bytes, true)
WATCH(read1, 1, false) WATCH(write1, 1, true)
WATCH_ALL(2) WATCH_ALL(4) WATCH_ALL(8) WATCH_ALL(16)
UNWATCHED void __tsan_read_range(void *p, unsigned long n) { host::touched(p, n, false, host::NO, __builtin_return_address(0)); }
UNWATCHED void __tsan_write_range(void *p, unsigned long n) { host::touched(p, n, true, host::NO, __builtin_return_address(0)); }
void __tsan_init() {}
UNWATCHED void __tsan_func_entry(void *) {}
UNWATCHED void __tsan_func_exit() {}
}
#endif
