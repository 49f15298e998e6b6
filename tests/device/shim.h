// Runs CUDA kernels on a CPU, for tests: the threads of a block are fibers of one OS thread, blocks run one after the
// other. SHIM_ORDER=forward|backward|shuffled sets the order of blocks, warps and lanes. Asynchronous copies land as late
// as they may, with SHIM_ASYNC=early at once. Barriers or warp operations that not all threads reach end the program.
// Several OS threads may share a grid: each says by shim_range which blocks it runs.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>
#if !(defined(__x86_64__) || defined(__aarch64__) && defined(__ELF__)) && !defined(SHIM_UCONTEXT)
#define SHIM_UCONTEXT   // slower, on any processor
#endif
#ifdef SHIM_UCONTEXT
#include <ucontext.h>
#endif

#define __global__
#define __device__
#define __host__
#define __shared__ static thread_local
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)
#define __restrict__ __restrict

struct dim3 {
    unsigned x, y, z;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(8) float2 {
    float x, y;
};
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline float2 make_float2(float x, float y) { return {x, y}; }


namespace shim {

[[noreturn]] inline void fail(const std::string& what);

// ---- Numbers ----

template <class To, class From>
To bits_of(From x) {
    static_assert(sizeof(To) == sizeof(From));
    To y;
    std::memcpy(&y, &x, sizeof y);
    return y;
}

inline uint16_t round_to_bf16(float x) {
    const uint32_t u = bits_of<uint32_t>(x);
    if (std::isnan(x)) return 0x7fff;
    return uint16_t((u + 0x7fff + (u >> 16 & 1)) >> 16);
}
inline float bf16_to_float(uint16_t x) { return bits_of<float>(uint32_t(x) << 16); }

inline float half_to_float(uint16_t h) {
    const int exponent = h >> 10 & 31, mantissa = h & 1023;
    float x = exponent == 0 ? std::ldexp(float(mantissa), -24) : std::ldexp(float(mantissa + 1024), exponent - 25);
    if (exponent == 31) x = mantissa ? NAN : INFINITY;
    return h >> 15 ? -x : x;
}

inline float flush(float x) { return std::fabs(x) < 1.17549435e-38f ? std::copysign(0.0f, x) : x; }

// ---- Fibers ----

#ifndef SHIM_UCONTEXT
// Saves the registers that a callee keeps, stores the stack pointer in *from and continues at stack pointer `to`.
extern "C" void shim_switch(void** from, void* to);
#ifdef __x86_64__
constexpr size_t WORDS = 8, RETURN = 6;   // what a switch finds on a new stack, and which of it is where to continue
asm(R"(
.pushsection .text
.weak shim_switch
.hidden shim_switch
.type shim_switch, @function
shim_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size shim_switch, .-shim_switch
.popsection
)");
#else
constexpr size_t WORDS = 20, RETURN = 1;
asm(R"(
.pushsection .text
.weak shim_switch
.hidden shim_switch
.type shim_switch, %function
shim_switch:
    stp x29, x30, [sp, #-160]!
    stp x19, x20, [sp, #16]
    stp x21, x22, [sp, #32]
    stp x23, x24, [sp, #48]
    stp x25, x26, [sp, #64]
    stp x27, x28, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #16]
    ldp x21, x22, [sp, #32]
    ldp x23, x24, [sp, #48]
    ldp x25, x26, [sp, #64]
    ldp x27, x28, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    ldp x29, x30, [sp], #160
    ret
.size shim_switch, .-shim_switch
.popsection
)");
#endif

struct Context {
    void* sp = nullptr;
    void start(void* stack, size_t size, void (*entry)()) {
        // As if `entry` had been called: on x86-64 the stack is then 8 off a multiple of 16.
        auto** top = reinterpret_cast<void**>(static_cast<char*>(stack) + size) - WORDS;
        std::fill_n(top, WORDS, nullptr);
        top[RETURN] = reinterpret_cast<void*>(entry);   // where the first switch returns to
        sp = top;
    }
    void go(Context& to) { shim_switch(&sp, to.sp); }
};
#else
struct Context {
    ucontext_t state;
    void start(void* stack, size_t size, void (*entry)()) {
        getcontext(&state);
        state.uc_stack.ss_sp = stack;
        state.uc_stack.ss_size = size;
        state.uc_link = nullptr;
        makecontext(&state, entry, 0);
    }
    void go(Context& to) { swapcontext(&state, &to.state); }
};
#endif

// Stacks, and what lies below each to catch those that are too deep, in a region at a multiple of its size.
constexpr size_t STACK = 128 * 1024;
constexpr size_t PAGE = 64 * 1024;
constexpr size_t REGION = 256 * 1024 * 1024;

enum class Kind { Sync, Shuffle, Ballot, Matrix, Mma };

// What a lane brings to an operation of its warp.
struct Operation {
    Kind kind;
    int line;
    unsigned mask;
    const void* row;   // Matrix: address of a row.
    uint32_t* out;     // Matrix: words to fill.
    int count;         // Matrix: number of matrices, negative if transposed.
    float* c;          // Mma: accumulators, and operands.
    uint32_t a[4], b[2];
};

struct Copy {
    void* to;
    const void* from;
    int group;
};

// A thread of a block. It has a stack from when it begins until it ends.
struct Fiber {
    Context context;
    unsigned stack = 0;
    int group = 0;
    std::vector<Copy> copies;
};

// Lanes of a warp, a bit each: those there are, those that could go on, those that have not begun.
struct Warp {
    unsigned exist, runs, fresh;
};

struct Order {
    int kind = 0;   // 0 forward, 1 backward, 2 shuffled
    uint32_t seed = 12345;
    std::vector<unsigned> of(unsigned count) {
        std::vector<unsigned> order(count);
        std::iota(order.begin(), order.end(), 0u);
        if (kind == 1) std::reverse(order.begin(), order.end());
        if (kind == 2)
            for (unsigned i = count; i > 1; --i) {
                seed = seed * 1664525u + 1013904223u;
                std::swap(order[i - 1], order[(seed >> 8) % i]);
            }
        return order;
    }
};

struct Machine {
    dim3 thread, block, block_dim, grid_dim;
    unsigned current = 0;   // thread of the block
    // The warp that runs, and the lanes of it that wait in a warp operation.
    unsigned warp = 0, waiting = 0;
    bool same = true;   // all of them in the same one, that of `first`
    Operation* first = nullptr;
    Operation ops[32];
    uint64_t values[32];   // Shuffle: the lane's value, then the one it gets. Ballot: predicate, then votes.
    int sources[32];       // Shuffle: lane to read.
    std::vector<Warp> warps;
    unsigned at_barrier = 0;   // threads
    int barrier_line = 0;
    // Order of the warps and of their lanes until the next barrier.
    Order order;
    std::vector<unsigned> warp_order, lane_order;
    unsigned turn = 0;

    Context scheduler;
    std::vector<Fiber> fibers;
    std::vector<unsigned> free_stacks;
    char* region = nullptr;   // its first words point to this machine
    unsigned stack_count = 0;
    const char* kernel = "";
    void (*body)(void*) = nullptr;
    void* body_data = nullptr;
    char* smem = nullptr;
    bool early = false, copied = false;
    // The blocks of the next grid that this OS thread runs.
    unsigned first_block = 0, block_count = ~0u;

    Machine() = default;
    Machine(const Machine&) = delete;
    ~Machine() {
        if (region) munmap(region, REGION);
    }
    void map_region() {
        void* all = mmap(nullptr, 2 * REGION, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (all == MAP_FAILED) fail("no memory for stacks");
        const size_t before = (REGION - reinterpret_cast<size_t>(all) % REGION) % REGION;
        region = static_cast<char*>(all) + before;
        if (before) munmap(all, before);
        munmap(region + REGION, REGION - before);
        *reinterpret_cast<Machine**>(region) = this;
    }
    char* stack(unsigned i) { return region + (i + 1) * (STACK + PAGE) + PAGE; }
    void reserve(unsigned threads) {
        static_assert(1025 * (STACK + PAGE) <= REGION);
        if (!region) map_region();
        fibers.resize(threads);
        for (; stack_count < threads; ++stack_count) {
            mprotect(stack(stack_count) - PAGE, PAGE, PROT_NONE);
            free_stacks.push_back(stack_count);
        }
    }
    // Gives the current thread a stack. Tops of stacks are in different sets of the caches.
    void begin(void (*entry)()) {
        Fiber& fiber = fibers[current];
        fiber.stack = free_stacks.back();
        free_stacks.pop_back();
        fiber.context.start(stack(fiber.stack), STACK - fiber.stack * 81 * 64 % (STACK / 4), entry);
    }
};

inline Machine& machine_of_thread() {
    static thread_local Machine machine;
    return machine;
}
// The same for a fiber, by its stack: much faster.
__attribute__((always_inline)) inline Machine& machine() {
    return **reinterpret_cast<Machine**>(reinterpret_cast<size_t>(__builtin_frame_address(0)) & ~(REGION - 1));
}

[[noreturn]] inline void fail(const std::string& what) {
    const Machine& m = machine_of_thread();
    std::fprintf(stderr, "shim: kernel %s, block (%u, %u, %u): %s\n", m.kernel, m.block.x, m.block.y, m.block.z,
                 what.c_str());
    std::abort();
}

inline char* dynamic_smem() { return machine().smem; }

// ---- What a thread waits for ----

inline void leave(Machine& m, Context& from);

inline void wait() {
    Machine& m = machine();
    Context& mine = m.fibers[m.current].context;
    // Most often another lane of the warp goes on, in the order of lanes.
    Warp& warp = m.warps[m.warp];
    const unsigned next = warp.runs & -warp.runs;
    if (m.order.kind != 0 || !(next & ~warp.fresh)) return leave(m, mine);
    warp.runs ^= next;
    m.current = m.thread.x = 32 * m.warp + unsigned(__builtin_ctz(next));
    mine.go(m.fibers[m.current].context);
}

inline void barrier(int line) {
    Machine& m = machine();
    if (m.at_barrier++ && m.barrier_line != line)
        fail("threads are at different barriers, lines " + std::to_string(m.barrier_line) + " and " +
             std::to_string(line));
    m.barrier_line = line;
    wait();
}

// Of the current lane, which then waits for the others.
inline Operation& operation(Kind kind, int line, unsigned mask) {
    Machine& m = machine();
    const unsigned lane = m.current % 32;
    Operation& op = m.ops[lane];
    op.kind = kind, op.line = line, op.mask = mask;
    if (!(mask >> lane & 1)) fail("a lane is not in its own mask, line " + std::to_string(line));
    if (m.waiting) {
        const Operation& other = *m.first;
        m.same = m.same && other.kind == kind && other.line == line && other.mask == mask;
    } else {
        m.same = true, m.first = &op;
    }
    m.waiting |= 1u << lane;
    return op;
}

inline unsigned mask_or_all(unsigned mask = ~0u) { return mask; }
inline void warp_sync(int line, unsigned mask) {
    operation(Kind::Sync, line, mask);
    wait();
}

template <class V>
V shuffle(int line, unsigned mask, V x, int source) {
    static_assert(sizeof(V) == 4 || sizeof(V) == 8);
    Machine& m = machine();
    const unsigned lane = m.current % 32;
    operation(Kind::Shuffle, line, mask);
    std::memcpy(&m.values[lane], &x, sizeof x);
    m.sources[lane] = source;
    wait();
    std::memcpy(&x, &m.values[lane], sizeof x);
    return x;
}
inline int lane() { return int(machine().current % 32); }
template <class V>
V shuffle_to(int line, unsigned mask, V x, int source, int width = 32) {
    return shuffle(line, mask, x, lane() / width * width + (source & (width - 1)));
}
template <class V>
V shuffle_xor(int line, unsigned mask, V x, int step, int width = 32) {
    const int to = lane() ^ step;
    return shuffle(line, mask, x, to / width == lane() / width ? to : lane());
}
template <class V>
V shuffle_down(int line, unsigned mask, V x, unsigned step, int width = 32) {
    const int to = lane() + int(step);
    return shuffle(line, mask, x, to / width == lane() / width ? to : lane());
}
template <class V>
V shuffle_up(int line, unsigned mask, V x, unsigned step, int width = 32) {
    const int to = lane() - int(step);
    return shuffle(line, mask, x, to >= 0 && to / width == lane() / width ? to : lane());
}
inline unsigned ballot(int line, unsigned mask, int predicate) {
    Machine& m = machine();
    operation(Kind::Ballot, line, mask);
    m.values[m.current % 32] = predicate != 0;
    wait();
    return unsigned(m.values[m.current % 32]);
}

inline void ldmatrix(uint32_t* out, int count, bool transposed, const void* row) {
    if (reinterpret_cast<size_t>(row) % 16) fail("ldmatrix: a row is not at a 16-byte boundary");
    Operation& op = operation(Kind::Matrix, 0, ~0u);
    op.row = row, op.out = out, op.count = transposed ? -count : count;
    wait();
}

inline void mma(float* c, const uint32_t* a, uint32_t b0, uint32_t b1) {
    Operation& op = operation(Kind::Mma, 0, ~0u);
    op.c = c;
    std::copy(a, a + 4, op.a);
    op.b[0] = b0, op.b[1] = b1;
    wait();
}

inline void land(const Copy& copy) {
    if (copy.from) std::memcpy(copy.to, copy.from, 16);
    else std::memset(copy.to, 0, 16);
}
inline void cp_async(void* to, const void* from, bool valid) {
    if (reinterpret_cast<size_t>(to) % 16) fail("cp.async: target not at a 16-byte boundary");
    if (valid && reinterpret_cast<size_t>(from) % 16) fail("cp.async: source not at a 16-byte boundary");
    Machine& m = machine();
    Fiber& fiber = m.fibers[m.current];
    const Copy copy{to, valid ? from : nullptr, fiber.group};
    m.copied = true;
    if (m.early) land(copy);
    else fiber.copies.push_back(copy);
}
inline void cp_async_commit() {
    Machine& m = machine();
    ++m.fibers[m.current].group;
    m.copied = true;
}
inline void cp_async_wait(int unfinished) {
    Machine& m = machine();
    Fiber& fiber = m.fibers[m.current];
    size_t done = 0;
    for (; done < fiber.copies.size() && fiber.copies[done].group < fiber.group - unfinished; ++done)
        land(fiber.copies[done]);
    fiber.copies.erase(fiber.copies.begin(), fiber.copies.begin() + long(done));
}

// ---- Operations of a warp, once all its lanes have come ----

inline void finish_shuffle(Machine& m, unsigned mask) {
    uint64_t values[32];
    std::copy(m.values, m.values + 32, values);
    for (unsigned left = mask; left; left &= left - 1) {
        const int l = __builtin_ctz(left), source = m.sources[l];
        if (source < 0 || source > 31 || !(mask >> source & 1)) fail("a shuffle reads a lane that takes no part");
        m.values[l] = values[source];
    }
}

inline void finish_ballot(Machine& m, unsigned mask) {
    unsigned votes = 0;
    for (int l = 0; l < 32; ++l)
        if (mask >> l & 1) votes |= unsigned(m.values[l]) << l;
    for (int l = 0; l < 32; ++l)
        if (mask >> l & 1) m.values[l] = votes;
}

inline void finish_ldmatrix(Operation* ops) {
    const int count = std::abs(ops[0].count);
    uint16_t x[4][8][8];
    for (int i = 0; i < count; ++i)
        for (int r = 0; r < 8; ++r) std::memcpy(x[i][r], ops[8 * i + r].row, 16);
    for (int l = 0; l < 32; ++l)
        for (int i = 0; i < count; ++i) {
            const int g = l / 4, t = 2 * (l % 4);
            const bool transposed = ops[l].count < 0;
            const uint32_t low = transposed ? x[i][t][g] : x[i][g][t];
            const uint32_t high = transposed ? x[i][t + 1][g] : x[i][g][t + 1];
            ops[l].out[i] = low | high << 16;
        }
}

typedef float Eight __attribute__((vector_size(32), may_alias));

inline void finish_mma(Operation* ops) {
    float a[16][16];
    alignas(32) float b[16][8], c[16][8];
    for (int l = 0; l < 32; ++l) {
        const Operation& op = ops[l];
        const int g = l / 4, t = 2 * (l % 4);
        for (int i = 0; i < 4; ++i) {
            const int row = g + 8 * (i % 2), column = t + 8 * (i / 2);
            a[row][column] = bf16_to_float(uint16_t(op.a[i]));
            a[row][column + 1] = bf16_to_float(uint16_t(op.a[i] >> 16));
            c[g + 8 * (i / 2)][t + i % 2] = op.c[i];
        }
        for (int i = 0; i < 2; ++i) {
            b[t + 8 * i][g] = bf16_to_float(uint16_t(op.b[i]));
            b[t + 1 + 8 * i][g] = bf16_to_float(uint16_t(op.b[i] >> 16));
        }
    }
    for (int i = 0; i < 16; ++i) {
        Eight& sums = *reinterpret_cast<Eight*>(c[i]);
        for (int k = 0; k < 16; ++k) sums += a[i][k] * *reinterpret_cast<const Eight*>(b[k]);
    }
    for (int l = 0; l < 32; ++l)
        for (int i = 0; i < 4; ++i) ops[l].c[i] = c[l / 4 + 8 * (i / 2)][2 * (l % 4) + i % 2];
}

// ---- The scheduler ----

// Lanes of which all wait in one operation that is theirs; 0 if there are none.
inline unsigned complete_lanes(const Machine& m, unsigned exist) {
    for (unsigned left = m.waiting; left; left &= left - 1) {
        const Operation& op = m.ops[__builtin_ctz(left)];
        const unsigned mask = op.mask & exist;
        bool all = (m.waiting & mask) == mask;
        for (int l = 0; l < 32 && all && !(m.same && mask == m.waiting); ++l)
            if (mask >> l & 1) {
                const Operation& other = m.ops[l];
                all = other.kind == op.kind && other.line == op.line && (other.mask & exist) == mask;
            }
        if (all) return mask;
    }
    return 0;
}

// Ends an operation that lanes of the warp wait in, if all lanes of its mask are there. False if none waits.
inline bool finish_operation(Machine& m, Warp& warp) {
    if (!m.waiting) return false;
    const unsigned mask = complete_lanes(m, warp.exist);
    if (!mask)
        fail("lanes of a warp wait for others that do not come (operation at line " +
             std::to_string(m.ops[__builtin_ctz(m.waiting)].line) + ")");
    const Kind kind = m.ops[__builtin_ctz(mask)].kind;
    if ((kind == Kind::Matrix || kind == Kind::Mma) && mask != ~0u) fail("mma or ldmatrix in part of a warp");
    switch (kind) {
        case Kind::Sync: break;
        case Kind::Shuffle: finish_shuffle(m, mask); break;
        case Kind::Ballot: finish_ballot(m, mask); break;
        case Kind::Matrix: finish_ldmatrix(m.ops); break;
        case Kind::Mma: finish_mma(m.ops); break;
    }
    m.waiting &= ~mask;
    warp.runs |= mask;
    return true;
}

// All warps may run, in an order of their own.
inline void open_round(Machine& m) {
    if (m.order.kind == 2 || m.warp_order.size() != m.warps.size()) {
        m.lane_order = m.order.of(32);
        m.warp_order = m.order.of(unsigned(m.warps.size()));
    }
    for (Warp& warp : m.warps) warp.runs = warp.exist;
    m.turn = 0, m.warp = m.warp_order[0], m.at_barrier = 0;
}

inline unsigned first_lane(const Machine& m, unsigned lanes) {
    if (m.order.kind == 0) return unsigned(__builtin_ctz(lanes));
    return *std::find_if(m.lane_order.begin(), m.lane_order.end(), [&](unsigned l) { return lanes >> l & 1; });
}

// Makes the thread current that goes on next: a warp runs until all its lanes are at a barrier of the block or have
// ended. False if all threads have ended.
inline bool choose(Machine& m) {
    for (;;) {
        Warp& warp = m.warps[m.warp];
        if (warp.runs) {
            const unsigned l = first_lane(m, warp.runs);
            warp.runs &= ~(1u << l);
            m.current = 32 * m.warp + l;
            m.thread.x = m.current;
            return true;
        }
        if (finish_operation(m, warp)) continue;
        if (++m.turn < m.warps.size()) {
            m.warp = m.warp_order[m.turn];
            continue;
        }
        if (m.at_barrier == 0) return false;
        if (m.at_barrier != m.fibers.size())
            fail("not all threads reach the barrier at line " + std::to_string(m.barrier_line));
        open_round(m);
    }
}

// Whether the current thread has not begun; now it has.
inline bool begins(Machine& m) {
    unsigned& fresh = m.warps[m.warp].fresh;
    const unsigned bit = 1u << m.current % 32;
    const bool is = fresh & bit;
    fresh &= ~bit;
    return is;
}

// A stack's threads: one that ends leaves it to one that begins.
inline void fiber_main() {
    Machine& m = machine();
    for (;;) {
        m.body(m.body_data);
        Fiber& ended = m.fibers[m.current];
        const bool more = choose(m);
        Fiber& next = m.fibers[m.current];
        if (more && begins(m)) {
            next.stack = ended.stack;
            continue;
        }
        m.free_stacks.push_back(ended.stack);
        ended.context.go(more ? next.context : m.scheduler);
    }
}

// Goes from a thread, or from the scheduler, to whichever thread is next.
inline void leave(Machine& m, Context& from) {
    const bool more = choose(m);
    if (more && begins(m)) m.begin(fiber_main);
    Context& to = more ? m.fibers[m.current].context : m.scheduler;
    if (&to != &from) from.go(to);
}

inline void run_block(Machine& m) {
    const unsigned threads = unsigned(m.fibers.size());
    m.warps.resize((threads + 31) / 32);
    for (unsigned w = 0; w < m.warps.size(); ++w) {
        const unsigned exist = threads - 32 * w >= 32 ? ~0u : (1u << (threads - 32 * w)) - 1;
        m.warps[w] = {exist, 0, exist};
    }
    if (m.copied)
        for (Fiber& fiber : m.fibers) fiber.copies.clear(), fiber.group = 0;
    m.copied = false, m.waiting = 0;
    open_round(m);
    leave(m, m.scheduler);
}

inline void run_grid(const char* name, dim3 grid, unsigned threads, unsigned smem, void (*body)(void*), void* data) {
    Machine& m = machine_of_thread();
    m.kernel = name;
    m.body = body, m.body_data = data;
    const char* async = std::getenv("SHIM_ASYNC");
    m.early = async && std::string(async) == "early";
    const char* asked = std::getenv("SHIM_ORDER");
    const std::string kind = asked ? asked : "forward";
    m.order = Order();
    m.order.kind = kind == "backward" ? 1 : kind == "shuffled" ? 2 : 0;
    m.warp_order.clear();
    if (threads == 0 || threads > 1024) fail("block of " + std::to_string(threads) + " threads");
    m.reserve(threads);

    // Shared memory starts as NaN bytes; what lies behind it must stay.
    const size_t guard = 256, bytes = (size_t(smem) + 127) / 128 * 128 + guard;
    std::vector<char> room(bytes + 128);
    m.smem = room.data() + (128 - reinterpret_cast<size_t>(room.data()) % 128) % 128;
    m.thread = {0, 0, 0}, m.block_dim = {threads, 1, 1}, m.grid_dim = grid;
    const unsigned all = grid.x * grid.y * grid.z, first = std::min(m.first_block, all);
    for (unsigned block : m.order.of(std::min(m.block_count, all - first))) {
        block += first;
        m.block = {block % grid.x, block / grid.x % grid.y, block / grid.x / grid.y};
        std::memset(m.smem, 0xff, smem);
        std::memset(m.smem + smem, 0x5a, guard);
        run_block(m);
        if (std::any_of(m.smem + smem, m.smem + smem + guard, [](char x) { return x != 0x5a; }))
            fail("writes behind its shared memory");
    }
    m.smem = nullptr;
    m.first_block = 0, m.block_count = ~0u;
}

template <class... A, size_t... I>
void call(void (*kernel)(A...), void** args, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_reference_t<A>*>(args[I])...);
}

// Runs a kernel over a grid; args[i] points to argument i, as for cuLaunchKernel.
template <class... A>
void launch(const char* name, void (*kernel)(A...), unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned smem,
            void** args) {
    struct Call {
        void (*kernel)(A...);
        void** args;
    } data{kernel, args};
    run_grid(name, {gx, gy, gz}, bx, smem, [](void* p) {
        const Call& c = *static_cast<Call*>(p);
        call(c.kernel, c.args, std::index_sequence_for<A...>{});
    }, &data);
}

}  // namespace shim

// Of the next grid of this OS thread only `count` blocks are run, from block `first`.
extern "C" __attribute__((used, visibility("default"))) inline void shim_range(unsigned first, unsigned count) {
    shim::Machine& m = shim::machine_of_thread();
    m.first_block = first, m.block_count = count;
}

#define threadIdx (shim::machine().thread)
#define blockIdx (shim::machine().block)
#define blockDim (shim::machine().block_dim)
#define gridDim (shim::machine().grid_dim)
#define __syncthreads() shim::barrier(__LINE__)
#define __syncwarp(...) shim::warp_sync(__LINE__, shim::mask_or_all(__VA_ARGS__))
#define __shfl_sync(...) shim::shuffle_to(__LINE__, __VA_ARGS__)
#define __shfl_xor_sync(...) shim::shuffle_xor(__LINE__, __VA_ARGS__)
#define __shfl_down_sync(...) shim::shuffle_down(__LINE__, __VA_ARGS__)
#define __shfl_up_sync(...) shim::shuffle_up(__LINE__, __VA_ARGS__)
#define __ballot_sync(mask, x) shim::ballot(__LINE__, mask, x)
#define __any_sync(mask, x) (shim::ballot(__LINE__, mask, x) != 0)

inline unsigned __float_as_uint(float x) { return shim::bits_of<unsigned>(x); }
inline int __float_as_int(float x) { return shim::bits_of<int>(x); }
inline float __uint_as_float(unsigned x) { return shim::bits_of<float>(x); }
inline float __int_as_float(int x) { return shim::bits_of<float>(x); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fdividef(float a, float b) { return a / b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((uint64_t(a) * b) >> 32); }
template <class T>
T __ldg(const T* p) {
    return *p;
}
using std::max;
using std::min;
