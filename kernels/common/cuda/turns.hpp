// Blocks that wait for one another, on a CPU (host.hpp): by turns on one OS thread, in an order that a launch asks for.
#pragma once

namespace host {
// Whose turn it is: the first block for as long as it can go on, then the second; the last one; each in turn; each in turn but the
// first, which once it has taken its first task has its turn when all others wait. A positive number: at random, by this seed.
enum Order { FIRST = 0, LAST = -1, TURNS = -2, STARVED = -3 };

// Runs blocks that wait for one another. A turn is one pass over a block's threads; a block that only waits for a counter has no turn
// before some counter has changed. Where no block can have one, none ever will: that is a deadlock.
static void run_together(Launch &launch) {
    const unsigned count = unsigned(launch.blocks);
    Block *blocks = new Block[count];
    for (unsigned i = 0; i < count; ++i) {
        block = &blocks[i];
        make(*block, &launch), place(*block, i), begin();
    }
    unsigned last = count - 1;
    unsigned long long random = launch.order;
    auto ready = [&](unsigned i) { return blocks[i].left && blocks[i].seen != launch.changes; };
    auto choose = [&]() -> unsigned {
        unsigned can = 0;
        for (unsigned i = 0; i < count; ++i) can += ready(i);
        if (!can) return count;
        unsigned at = launch.order == LAST ? can - 1 : 0;
        if (launch.order > 0) at = unsigned((random = random * 6364136223846793005ull + 1442695040888963407ull) >> 33) % can;
        if (launch.order == STARVED && !blocks[0].counted && ready(0)) return 0;
        if (launch.order == TURNS || launch.order == STARVED) {
            for (unsigned i = 1; i <= count; ++i)
                if (const unsigned next = (last + i) % count; ready(next) && (launch.order == TURNS || next || can == 1)) return next;
        }
        for (unsigned i = 0;; ++i)
            if (ready(i) && !at--) return i;
    };
    while (!launch.failed && (last = choose()) != count) {
        block = &blocks[last];
        const State state = pass();
        if (state == PAUSED) block->seen = launch.changes;
        if (state == STUCK && !block->broken) stuck(block->left);
    }
    unsigned waiting = 0;
    for (unsigned i = 0; i < count; ++i) waiting += blocks[i].left != 0;
    if (waiting && !launch.failed) {
        launch.failed = 1;
        snprintf(launch.message, launch.room, "%u of %u blocks wait for a counter that no block will change", waiting, count);
    }
    for (unsigned i = 0; i < count; ++i) release(blocks[i]);
    delete[] blocks;
    block = nullptr;
}
}  // namespace host
