// What stands between the projections of queries, keys and values and attention: bias, clip, norms of queries and keys,
// rotation, and the split into three matrices; and its gradient. Kernels without norms (blocks of DIRECT threads), and
// with them (blocks of BLOCK threads); each has two ways:
// - By items, in registers: a thread takes 16 features of a head, as two runs of 8 that turn into each other, of ROWS
//   rows. The grid is best ceil(items / block) blocks, with ceil(rows / ROWS)·(n_head + 2·n_kv)·head_dim/16 items.
//   Norms need runs of a head, on a power of two of lanes.
// - By rows, for all else: a block for each. With norms the row stays in dynamic shared memory, (n_head + 2·n_kv)·
//   head_dim floats, in the order q|k|v whatever the layout of y.
// Any grid does, and no row's bits depend on it. Fewer than 2^32 items.
#include "common.cuh"
#include "rows.cuh"

constexpr int BLOCK = 256, DIRECT = 128;
enum Kind { NONE = 0, RMS = 1, LAYER = 2 };

// The norm of queries or of keys, in runs of `size`. Gain and bias of a column: its number modulo `gain_len`.
struct Norm {
    const float *gain, *bias;
    float eps;
    int size, gain_len, kind;

    // Whether the lanes that share a head can have it: 16 features each, in one warp.
    __device__ bool by_heads(int head_dim) const {
        const int lanes = head_dim / 16;
        return size == head_dim && gain_len % head_dim == 0 && lanes <= 32 && (lanes & (lanes - 1)) == 0 &&
               aligned<8>(gain) && aligned<8>(bias);
    }
};

// Tables of angles, and which of their rows a row has (null: its own). half 0: nothing turns.
struct Angles {
    const float *cos, *sin;
    const u32* rows;
    int half, pairing;

    __device__ u32 place(u32 row) const { return rows ? rows[row] : row; }
    __device__ Angles at_row(u32 row) const {
        const size_t from = half ? size_t(place(row)) * half : 0;
        return {cos + from, sin + from, nullptr, half, pairing};
    }
};

// What an item is: heads of q, of k or of v; the column of y where the head begins; its two runs; their angles, four
// each: with halves those of the first run's pairs, interleaved those of each run.
struct Item {
    int section, head, column;
    int run[2], angle[2];
    bool turns[2];
};

struct Shape {
    const float* bias;
    float clip;
    Norm q_norm, k_norm;
    int norm_after;
    Angles q_angles, k_angles;
    int n_head, n_kv, head_dim, layout;

    __device__ int q_width() const { return n_head * head_dim; }
    __device__ int k_width() const { return n_kv * head_dim; }
    __device__ int width() const { return (n_head + 2 * n_kv) * head_dim; }
    __device__ u32 items() const { return u32(n_head + 2 * n_kv) * (u32(head_dim) / 16); }
    __device__ Angles angles(int head) const {
        return head < n_head          ? q_angles
               : head < n_head + n_kv ? k_angles
                                      : Angles{nullptr, nullptr, nullptr, 0, q_angles.pairing};
    }
    // With the angles of one row.
    __device__ Shape at_row(u32 row) const {
        Shape s = *this;
        s.q_angles = q_angles.at_row(row), s.k_angles = k_angles.at_row(row);
        return s;
    }
    // Head of q|k|v at a slot of head_dim columns of y.
    __device__ int head_at(int slot) const {
        if (layout == 0) return slot;
        const int group = n_head / n_kv, kv = slot / (group + 2), part = slot % (group + 2);
        return part < group ? kv * group + part : n_head + (part - group) * n_kv + kv;
    }
    // Slot of a head of q|k|v.
    __device__ int slot_of(int head) const {
        if (layout == 0) return head;
        const int group = n_head / n_kv;
        return head < n_head ? head / group * (group + 2) + head % group
                             : (head - n_head) % n_kv * (group + 2) + group + (head - n_head) / n_kv;
    }
    // Column of y of column c of q|k|v.
    __device__ int column(int c) const {
        return layout == 0 ? c : slot_of(c / head_dim) * head_dim + c % head_dim;
    }
    // Whether all of it can be read eight columns at a time, and whose partners are eight in a row too.
    __device__ bool grouped() const {
        const int half = q_angles.pairing ? 4 : 8;
        return head_dim % 8 == 0 && q_angles.half % half == 0 && k_angles.half % half == 0 && aligned<8>(bias) &&
               aligned<8>(q_angles.cos) && aligned<8>(q_angles.sin) && aligned<8>(k_angles.cos) &&
               aligned<8>(k_angles.sin);
    }
    __device__ bool normed_by_heads() const { return q_norm.by_heads(head_dim) && k_norm.by_heads(head_dim); }
    __device__ Item item(u32 i) const {
        const u32 lanes = u32(head_dim) / 16;
        const int head = int(i / lanes), lane = int(i - head * lanes);
        const Angles a = angles(head);
        const int section = (head >= n_head) + (head >= n_head + n_kv), half = a.pairing ? 0 : a.half;
        // Runs that turn have their partners; then come the others, a run of their first half with one of their second.
        const bool pairs = 8 * lane < half;
        const int first = pairs ? 8 * lane : 8 * lane + half, second = first + (pairs ? half : head_dim / 2 - half);
        return {section,
                head - (section == 0 ? 0 : section == 1 ? n_head : n_head + n_kv),
                slot_of(head) * head_dim,
                {first, second},
                {a.pairing ? first / 2 : first, a.pairing ? second / 2 : first + 4},
                {pairs || (a.pairing && first < 2 * a.half), pairs || (a.pairing && second < 2 * a.half)}};
    }
};

__device__ __forceinline__ float clipped(float x, float limit) {
    return limit > 0.0f ? (x < -limit ? -limit : x > limit ? limit : x) : x;
}

// N columns of y from `at` with their bias, and cut to ±clip.
template <int N>
__device__ __forceinline__ void with_bias(const Shape& s, int at, float (&x)[N]) {
    if (!s.bias) return;
    float bias[N];
    load<N>(s.bias + at, bias);
#pragma unroll
    for (int e = 0; e < N; ++e) x[e] += bias[e];
}
template <int N>
__device__ __forceinline__ void with_bias_and_clip(const Shape& s, int at, float (&x)[N]) {
    with_bias(s, at, x);
#pragma unroll
    for (int e = 0; e < N; ++e) x[e] = clipped(x[e], s.clip);
}

// The pair that feature f < 2·half belongs to, the other feature of it, and the sign of that one's sine.
struct Partner {
    int pair, other;
    float sign;
};
__device__ __forceinline__ Partner partner(const Angles& a, int f) {
    const bool second = a.pairing ? f & 1 : f >= a.half;
    return {a.pairing ? f / 2 : second ? f - a.half : f, a.pairing ? f ^ 1 : second ? f - a.half : f + a.half,
            second ? 1.0f : -1.0f};
}

// Features f..f+N of a head, turned (direction 1) or turned back (-1).
template <int N>
__device__ __forceinline__ void turned(const float* head, int f, const Angles& a, float direction, float (&x)[N]) {
    load<N>(head + f, x);
    if (f >= 2 * a.half) return;
    const Partner p = partner(a, f);
    if (N == 1 || a.pairing == 0) {
        float other[N], cos[N], sin[N];
        load<N>(head + p.other, other), load<N>(a.cos + p.pair, cos), load<N>(a.sin + p.pair, sin);
#pragma unroll
        for (int e = 0; e < N; ++e) x[e] = x[e] * cos[e] + other[e] * (sin[e] * (p.sign * direction));
    } else if constexpr (N == 8) {
        float cos[4], sin[4];
        load4(a.cos + p.pair, cos), load4(a.sin + p.pair, sin);
#pragma unroll
        for (int e = 0; e < 8; e += 2) {
            const float c = cos[e / 2], s = sin[e / 2] * direction, first = x[e];
            x[e] = first * c - x[e + 1] * s;
            x[e + 1] = x[e + 1] * c + first * s;
        }
    }
}

// Turns `heads` heads in shared memory.
__device__ __forceinline__ void turn_in_place(float* row, int heads, int head_dim, const Angles& a, float direction) {
    for (int i = threadIdx.x; i < heads * a.half; i += BLOCK) {
        const int pair = i % a.half;
        float* head = row + i / a.half * head_dim;
        float &first = head[a.pairing ? 2 * pair : pair], &second = head[a.pairing ? 2 * pair + 1 : pair + a.half];
        const float cos = a.cos[pair], sin = a.sin[pair] * direction, x = first;
        first = x * cos - second * sin;
        second = second * cos + x * sin;
    }
}
__device__ __forceinline__ void turn_queries_and_keys(float* row, const Shape& s, float direction) {
    turn_in_place(row, s.n_head, s.head_dim, s.q_angles, direction);
    turn_in_place(row + s.q_width(), s.n_kv, s.head_dim, s.k_angles, direction);
}

// q, k and v, or their gradients.
template <class T>
struct Matrices {
    T *q, *k, *v;

    // Column c of q|k|v.
    __device__ T* at(const Shape& s, int c) const {
        const int q_width = s.q_width(), k_width = s.k_width();
        return c < q_width ? q + c : c < q_width + k_width ? k + (c - q_width) : v + (c - q_width - k_width);
    }
};

// Adds up the parts of the `group` query heads of each key head, in ascending order, for columns c..c+N of keys.
template <int N, class T>
__device__ __forceinline__ void sum_parts(const T* parts, int c, int group, int head_dim, float (&x)[N]) {
    const int head = c / head_dim;
    const T* part = parts + head * group * head_dim + (c - head * head_dim);
#pragma unroll
    for (int e = 0; e < N; ++e) x[e] = 0.0f;
#pragma unroll 1
    for (int g = 0; g < group; g += 4) {
        float next[4][N];
#pragma unroll
        for (int k = 0; k < 4; ++k)
            if (g + k < group) load<N>(part + (g + k) * head_dim, next[k]);
#pragma unroll
        for (int k = 0; k < 4; ++k)
#pragma unroll
            for (int e = 0; e < N; ++e) x[e] = g + k < group ? x[e] + next[k][e] : x[e];
    }
}

// Columns c..c+N of the gradient of q|k|v.
template <int N, class T>
__device__ __forceinline__ void gradient(const Matrices<const T>& d, const Shape& s, int c, float (&x)[N]) {
    const int q_width = s.q_width(), k_width = s.k_width(), group = s.n_head / s.n_kv;
    if (c < q_width) load<N>(d.q + c, x);
    else if (c < q_width + k_width) sum_parts<N>(d.k, c - q_width, group, s.head_dim, x);
    else sum_parts<N>(d.v, c - q_width - k_width, group, s.head_dim, x);
}

// ---- By rows, without norms: any size ----

// Column c of q|k|v with bias and clip, turned if `turns`; s has the row's angles.
template <class T>
__device__ __forceinline__ float projected(const T* y, const Shape& s, int c, bool turns) {
    const auto read = [&](int column) {
        float x[1] = {to_float(y[column])};
        with_bias_and_clip(s, column, x);
        return x[0];
    };
    const float x = read(s.column(c));
    const int head = c / s.head_dim, f = c - head * s.head_dim;
    const Angles a = s.angles(head);
    if (!turns || f >= 2 * a.half) return x;
    const Partner p = partner(a, f);
    return x * a.cos[p.pair] + read(s.column(c - f + p.other)) * (a.sin[p.pair] * p.sign);
}

template <class T>
__device__ __forceinline__ void forward_row(const T* y, const Shape& s, const Matrices<T>& to) {
    for (int c = threadIdx.x; c < s.width(); c += DIRECT) *to.at(s, c) = from_float<T>(projected(y, s, c, true));
}

template <class T>
__device__ __forceinline__ void backward_row(const Matrices<const T>& d, const T* y, const Shape& s, T* dy) {
    for (int c = threadIdx.x; c < s.width(); c += DIRECT) {
        const int head = c / s.head_dim, f = c - head * s.head_dim, column = s.column(c);
        const Angles a = s.angles(head);
        float x[1];
        gradient(d, s, c, x);
        if (f < 2 * a.half) {
            const Partner p = partner(a, f);
            float other[1];
            gradient(d, s, c - f + p.other, other);
            x[0] = x[0] * a.cos[p.pair] - other[0] * (a.sin[p.pair] * p.sign);
        }
        if (s.clip > 0.0f) {
            float was[1] = {to_float(y[column])};
            with_bias(s, column, was);
            x[0] = fabsf(was[0]) <= s.clip ? x[0] : 0.0f;
        }
        dy[column] = from_float<T>(x[0]);
    }
}

// ---- By rows, with norms: the row in shared memory ----

__device__ __forceinline__ int gain_index(const Norm& norm, int column) {
    while (column >= norm.gain_len) column -= norm.gain_len;
    return column;
}

// Calls f(norm, first column within q or k, run) for the runs of queries, then of keys, in shared memory: runs of at
// most 256 columns by a warp each (`short_run`), longer ones by the block (`long_run`).
constexpr int LANE = 8;   // columns of a short run in a lane
template <class Short, class Long>
__device__ __forceinline__ void each_run(const Shape& s, Short short_run, Long long_run) {
#pragma unroll 1
    for (int section = 0; section < 2; ++section) {
        const Norm norm = section ? s.k_norm : s.q_norm;
        const int base = section ? s.q_width() : 0, runs = (section ? s.k_width() : s.q_width()) / norm.size;
        const bool whole = norm.size > 32 * LANE;
#pragma unroll 1
        for (int run = whole ? 0 : threadIdx.x / 32; run < runs; run += whole ? 1 : BLOCK / 32) {
            const int start = run * norm.size % norm.gain_len, from = base + run * norm.size;
            whole ? long_run(norm, start, from) : short_run(norm, start, from);
        }
    }
}

// x ← (x − mean)·n·gain + bias for one column (mean 0 for RMS).
__device__ __forceinline__ float normed(float x, float mean, float n, const Norm& norm, int g) {
    return (x - mean) * n * norm.gain[g] + (norm.bias ? norm.bias[g] : 0.0f);
}

__device__ __forceinline__ void norm_queries_and_keys(float* row, const Shape& s, float* scratch) {
    each_run(
        s,
        [&](const Norm& norm, int start, int from) {
            const int lane = threadIdx.x % 32;
            float x[LANE], mean = 0.0f, squares = 0.0f;
#pragma unroll
            for (int k = 0; k < LANE; ++k) {
                x[k] = lane + 32 * k < norm.size ? row[from + lane + 32 * k] : 0.0f;
                mean += x[k];
            }
            mean = norm.kind == LAYER ? warp_sum(mean) / norm.size : 0.0f;
#pragma unroll
            for (int k = 0; k < LANE; ++k)
                squares += lane + 32 * k < norm.size ? (x[k] - mean) * (x[k] - mean) : 0.0f;
            const float n = 1.0f / sqrtf(warp_sum(squares) / norm.size + norm.eps);
#pragma unroll
            for (int k = 0; k < LANE; ++k) {
                const int i = lane + 32 * k;
                if (i < norm.size) row[from + i] = normed(x[k], mean, n, norm, gain_index(norm, start + i));
            }
        },
        [&](const Norm& norm, int start, int from) {
            float mean = 0.0f, squares = 0.0f;
            if (norm.kind == LAYER) {
                for (int i = threadIdx.x; i < norm.size; i += BLOCK) mean += row[from + i];
                mean = block_sum(mean, scratch) / norm.size;
            }
            for (int i = threadIdx.x; i < norm.size; i += BLOCK) {
                const float centred = row[from + i] - mean;
                squares += centred * centred;
            }
            const float n = 1.0f / sqrtf(block_sum(squares, scratch) / norm.size + norm.eps);
            for (int i = threadIdx.x; i < norm.size; i += BLOCK)
                row[from + i] = normed(row[from + i], mean, n, norm, gain_index(norm, start + i));
        });
}

// The gradient of the norm's input for that of its output, d, which is in shared memory; `x(i)` reads column i of q|k.
// With u = d·gain: n·u − along·(x − mean) − straight, along = n³·mean(u·(x − mean)), straight = n·mean(u) for a layer
// norm.
template <class X>
__device__ __forceinline__ void norm_backward(float* row, const Shape& s, X x, float* scratch) {
    each_run(
        s,
        [&](const Norm& norm, int start, int from) {
            const int lane = threadIdx.x % 32;
            const float per = 1.0f / norm.size;
            float at[LANE], u[LANE], mean = 0.0f, squares = 0.0f, along = 0.0f, straight = 0.0f;
#pragma unroll
            for (int k = 0; k < LANE; ++k) {
                const int i = lane + 32 * k;
                const bool in = i < norm.size;
                at[k] = in ? x(from + i) : 0.0f;
                u[k] = in ? row[from + i] * norm.gain[gain_index(norm, start + i)] : 0.0f;
                mean += at[k], straight += u[k];
            }
            mean = norm.kind == LAYER ? warp_sum(mean) * per : 0.0f;
#pragma unroll
            for (int k = 0; k < LANE; ++k) {
                at[k] = lane + 32 * k < norm.size ? at[k] - mean : 0.0f;
                squares += at[k] * at[k], along += u[k] * at[k];
            }
            const float n = 1.0f / sqrtf(warp_sum(squares) * per + norm.eps);
            along = n * n * n * (warp_sum(along) * per);
            straight = norm.kind == LAYER ? n * (warp_sum(straight) * per) : 0.0f;
#pragma unroll
            for (int k = 0; k < LANE; ++k)
                if (lane + 32 * k < norm.size) row[from + lane + 32 * k] = n * u[k] - along * at[k] - straight;
        },
        [&](const Norm& norm, int start, int from) {
            const float per = 1.0f / norm.size;
            float mean = 0.0f, squares = 0.0f, along = 0.0f, straight = 0.0f;
            if (norm.kind == LAYER) {
#pragma unroll 1
                for (int i = threadIdx.x; i < norm.size; i += BLOCK) mean += x(from + i);
                mean = block_sum(mean, scratch) * per;
            }
#pragma unroll 1
            for (int i = threadIdx.x; i < norm.size; i += BLOCK) {
                const float at = x(from + i) - mean, u = row[from + i] * norm.gain[gain_index(norm, start + i)];
                squares += at * at, along += u * at, straight += u;
                row[from + i] = u;
            }
            const float n = 1.0f / sqrtf(block_sum(squares, scratch) * per + norm.eps);
            along = n * n * n * (block_sum(along, scratch) * per);
            straight = block_sum(straight, scratch) * per;
            straight = norm.kind == LAYER ? n * straight : 0.0f;
#pragma unroll 1
            for (int i = threadIdx.x; i < norm.size; i += BLOCK)
                row[from + i] = n * row[from + i] - along * (x(from + i) - mean) - straight;
        });
}

// Columns of y with bias and clip, in the order q|k|v, into shared memory; two loads before the first is used.
template <int N, class T>
__device__ __forceinline__ void read_projected(const T* y, const Shape& s, float* row) {
    const auto keep = [&](int at, float(&x)[N]) {
        with_bias_and_clip(s, at, x);
        const int slot = at / s.head_dim;
        store<N>(row + s.head_at(slot) * s.head_dim + (at - slot * s.head_dim), x);
    };
#pragma unroll 1
    for (int at = N * threadIdx.x; at < s.width(); at += 2 * N * BLOCK) {
        const int next = at + N * BLOCK;
        float first[N], second[N];
        load<N>(y + at, first);
        if (next < s.width()) load<N>(y + next, second);
        keep(at, first);
        if (next < s.width()) keep(next, second);
    }
}

// The rows of q, k and v, turned if `turns`.
template <int N, class T>
__device__ __forceinline__ void write_outputs(const float* row, const Shape& s, bool turns, const Matrices<T>& to) {
#pragma unroll 1
    for (int at = N * threadIdx.x; at < s.width(); at += N * BLOCK) {
        const int head = at / s.head_dim;
        Angles angles = s.angles(head);
        if (!turns) angles.half = 0;
        float x[N];
        turned<N>(row + head * s.head_dim, at - head * s.head_dim, angles, 1.0f, x);
        store<N>(to.at(s, at), x);
    }
}

template <class T>
__device__ __forceinline__ void norm_forward_row(const T* y, const Shape& s, const Matrices<T>& to, bool fast) {
    DYNAMIC_SMEM(float, row);
    __shared__ float scratch[32];
    fast ? read_projected<8>(y, s, row) : read_projected<1>(y, s, row);
    __syncthreads();
    if (s.norm_after) {
        turn_queries_and_keys(row, s, 1.0f);
        __syncthreads();
    }
    norm_queries_and_keys(row, s, scratch);
    __syncthreads();
    fast ? write_outputs<8>(row, s, !s.norm_after, to) : write_outputs<1>(row, s, !s.norm_after, to);
    __syncthreads();
}

// The gradients of q|k|v into shared memory.
template <int N, class T>
__device__ __forceinline__ void read_gradients(const Matrices<const T>& d, const Shape& s, float* row) {
#pragma unroll 1
    for (int at = N * threadIdx.x; at < s.width(); at += N * BLOCK) {
        float x[N];
        gradient(d, s, at, x);
        store<N>(row + at, x);
    }
}

// The gradient of y, turned back if `turns`, and 0 where y was clipped.
template <int N, class T>
__device__ __forceinline__ void write_gradient(const float* row, const Shape& s, bool turns, const T* y, T* dy) {
#pragma unroll 1
    for (int at = N * threadIdx.x; at < s.width(); at += N * BLOCK) {
        const int slot = at / s.head_dim, head = s.head_at(slot);
        Angles angles = s.angles(head);
        if (!turns) angles.half = 0;
        float x[N];
        turned<N>(row + head * s.head_dim, at - slot * s.head_dim, angles, -1.0f, x);
        if (s.clip > 0.0f) {
            float from[N];
            load<N>(y + at, from);
            with_bias(s, at, from);
#pragma unroll
            for (int e = 0; e < N; ++e) x[e] = fabsf(from[e]) <= s.clip ? x[e] : 0.0f;
        }
        store<N>(dy + at, x);
    }
}

template <class T>
__device__ __forceinline__ void norm_backward_row(const Matrices<const T>& d, const T* y, const Shape& s, T* dy,
                                                  bool fast) {
    DYNAMIC_SMEM(float, row);
    __shared__ float scratch[32];
    fast ? read_gradients<8>(d, s, row) : read_gradients<1>(d, s, row);
    __syncthreads();
    if (!s.norm_after) {
        turn_queries_and_keys(row, s, -1.0f);
        __syncthreads();
    }
    norm_backward(row, s, [&](int c) { return projected(y, s, c, s.norm_after); }, scratch);
    __syncthreads();
    fast ? write_gradient<8>(row, s, s.norm_after, y, dy) : write_gradient<1>(row, s, s.norm_after, y, dy);
    __syncthreads();
}

// ---- By items ----

// Eight elements as they are in memory: what is fetched early, and read later.
template <class T>
struct Packed;
template <>
struct Packed<bf16> {
    uint4 words;
};
template <>
struct Packed<float> {
    float4 low, high;
};
__device__ __forceinline__ void fetch(const bf16* p, Packed<bf16>& x) { x.words = *reinterpret_cast<const uint4*>(p); }
__device__ __forceinline__ void fetch(const float* p, Packed<float>& x) {
    x.low = reinterpret_cast<const float4*>(p)[0], x.high = reinterpret_cast<const float4*>(p)[1];
}
__device__ __forceinline__ void unpack(const Packed<bf16>& p, float (&x)[8]) { unpack8(p.words, x); }
__device__ __forceinline__ void unpack(const Packed<float>& p, float (&x)[8]) {
    x[0] = p.low.x, x[1] = p.low.y, x[2] = p.low.z, x[3] = p.low.w;
    x[4] = p.high.x, x[5] = p.high.y, x[6] = p.high.z, x[7] = p.high.w;
}

// For an item's runs h, and for their elements e.
#define EACH_RUN _Pragma("unroll") for (int h = 0; h < 2; ++h)
#define EACH _Pragma("unroll") for (int h = 0; h < 2; ++h) _Pragma("unroll") for (int e = 0; e < 8; ++e)

// An item's angles of one row.
struct Turn {
    float cos[2][4], sin[2][4];

    // In the tables' row `place`.
    __device__ Turn(const Angles& a, u32 place, const Item& item) {
        const size_t from = size_t(place) * a.half;
        EACH_RUN {
#pragma unroll
            for (int e = 0; e < 4; ++e) cos[h][e] = sin[h][e] = 0.0f;
            if (!item.turns[h]) continue;
            load4(a.cos + from + item.angle[h], cos[h]);
            load4(a.sin + from + item.angle[h], sin[h]);
        }
    }
};

// Turns an item (direction 1), or turns it back (-1).
__device__ __forceinline__ void turn_item(const Item& item, int pairing, const Turn& turn, float direction,
                                          float (&x)[2][8]) {
    if (pairing == 0) {
        if (!item.turns[0]) return;
#pragma unroll
        for (int e = 0; e < 8; ++e) {
            const float cos = turn.cos[e / 4][e % 4], sin = turn.sin[e / 4][e % 4] * direction, first = x[0][e];
            x[0][e] = first * cos - x[1][e] * sin;
            x[1][e] = x[1][e] * cos + first * sin;
        }
        return;
    }
    EACH_RUN {
        if (!item.turns[h]) continue;
#pragma unroll
        for (int e = 0; e < 8; e += 2) {
            const float cos = turn.cos[h][e / 2], sin = turn.sin[h][e / 2] * direction, first = x[h][e];
            x[h][e] = first * cos - x[h][e + 1] * sin;
            x[h][e + 1] = x[h][e + 1] * cos + first * sin;
        }
    }
}

// Adds the bias of y's columns, if there is one.
__device__ __forceinline__ void add_bias(const float* bias, const Item& item, float (&x)[2][8]) {
    if (!bias) return;
    float more[2][8];
    EACH_RUN load<8>(bias + item.column + item.run[h], more[h]);
    EACH x[h][e] += more[h][e];
}

// Sum over the lanes that share a head.
__device__ __forceinline__ float head_sum(float x, int lanes) {
    for (int step = lanes / 2; step > 0; step /= 2) x += __shfl_xor_sync(ALL_LANES, x, step);
    return x;
}

// The norm of an item's head (of v: what is not used), and where its gains are.
struct ItemNorm {
    Norm norm;
    const float *gain, *bias;
    int lanes;

    __device__ ItemNorm(const Shape& s, const Item& item)
        : norm(item.section ? s.k_norm : s.q_norm), lanes(s.head_dim / 16) {
        const int start = item.head * s.head_dim % norm.gain_len;
        gain = norm.gain + start, bias = norm.bias ? norm.bias + start : nullptr;
    }
    __device__ float mean(const float (&x)[2][8]) const {
        if (norm.kind != LAYER) return 0.0f;
        float sum = 0.0f;
        EACH sum += x[h][e];
        return head_sum(sum, lanes) / norm.size;
    }
};

__device__ __forceinline__ void norm_item(const ItemNorm& of, const Item& item, float (&x)[2][8]) {
    const float mean = of.mean(x);
    float squares = 0.0f;
    EACH squares += (x[h][e] - mean) * (x[h][e] - mean);
    const float n = 1.0f / sqrtf(head_sum(squares, of.lanes) / of.norm.size + of.norm.eps);
    if (item.section == 2) return;
    float gain[2][8];
    EACH_RUN load<8>(of.gain + item.run[h], gain[h]);
    EACH x[h][e] = (x[h][e] - mean) * n * gain[h][e];
    if (!of.bias) return;
    EACH_RUN load<8>(of.bias + item.run[h], gain[h]);
    EACH x[h][e] += gain[h][e];
}

// d, the gradient of the norm's output, becomes that of its input x: see norm_backward.
__device__ __forceinline__ void norm_item_backward(const ItemNorm& of, const Item& item, float (&x)[2][8],
                                                   float (&d)[2][8]) {
    const float mean = of.mean(x), per = 1.0f / of.norm.size;
    float gain[2][8], squares = 0.0f, along = 0.0f, straight = 0.0f;
    EACH_RUN load<8>(of.gain + item.run[h], gain[h]);
    EACH {
        x[h][e] -= mean, gain[h][e] *= d[h][e];
        squares += x[h][e] * x[h][e], along += gain[h][e] * x[h][e], straight += gain[h][e];
    }
    const float n = 1.0f / sqrtf(head_sum(squares, of.lanes) * per + of.norm.eps);
    along = n * n * n * (head_sum(along, of.lanes) * per);
    straight = of.norm.kind == LAYER ? n * (head_sum(straight, of.lanes) * per) : 0.0f;
    if (item.section == 2) return;
    EACH d[h][e] = n * gain[h][e] - along * x[h][e] - straight;
}

// All of y that a thread takes at a time is under way before the first of it is used.
template <int ROWS, bool NORMED, int THREADS, class T>
__device__ __forceinline__ void forward_items(const T* y, int ldy, const Shape& s, const u32* kv_rows,
                                              const Matrices<T>& to, int rows) {
    const u32 per_row = s.items(), all = u32(rows + ROWS - 1) / ROWS * per_row;
#pragma unroll 1
    for (u32 at = blockIdx.x * THREADS; at < all; at += gridDim.x * THREADS) {
        const u32 of_grid = at + threadIdx.x, group = of_grid / per_row;
        const Item item = s.item(of_grid - group * per_row);
        const Angles angles = item.section ? s.k_angles : s.q_angles;
        Packed<T> packed[ROWS][2];
        u32 row[ROWS], place[ROWS], row_to[ROWS];
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            row[i] = min(int(group) * ROWS + i, rows - 1);   // reads beyond the last row: of the last
            const T* from = y + size_t(row[i]) * ldy + item.column;
            EACH_RUN fetch(from + item.run[h], packed[i][h]);
        }
        __syncwarp();   // keeps the compiler from putting loads that wait for others before these
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            place[i] = angles.place(row[i]);
            row_to[i] = item.section && kv_rows ? kv_rows[row[i]] : row[i];
        }
        T* out = (item.section == 0 ? to.q : item.section == 1 ? to.k : to.v) + item.head * s.head_dim;
        const int pitch = item.section ? s.k_width() : s.q_width();
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            const Turn turn(angles, place[i], item);
            float x[2][8];
            EACH_RUN unpack(packed[i][h], x[h]);
            add_bias(s.bias, item, x);
            if (s.clip > 0.0f) EACH x[h][e] = clipped(x[h][e], s.clip);
            if (NORMED && !s.norm_after) norm_item(ItemNorm(s, item), item, x);
            turn_item(item, angles.pairing, turn, 1.0f, x);
            if (NORMED && s.norm_after) norm_item(ItemNorm(s, item), item, x);
            if (int(group) * ROWS + i >= rows) continue;
            EACH_RUN store<8>(out + size_t(row_to[i]) * pitch + item.run[h], x[h]);
        }
    }
}

// Parts of a key head whose loads are under way at a time.
template <class T>
constexpr int MEMBERS = 8 / sizeof(T);

template <bool NORMED, int THREADS, class T>
__device__ __forceinline__ void backward_items(const Matrices<const T>& d, const T* y, int ldy, const Shape& s, T* dy,
                                               int lddy, int rows) {
    constexpr int M = MEMBERS<T>;
    const u32 per_row = s.items(), all = rows * per_row;
#pragma unroll 1
    for (u32 at = blockIdx.x * THREADS; at < all; at += gridDim.x * THREADS) {
        const u32 of_grid = at + threadIdx.x, row_of_grid = of_grid / per_row, i = of_grid - row_of_grid * per_row;
        const Item item = s.item(i);
        const Angles angles = item.section ? s.k_angles : s.q_angles;
        const u32 row = min(int(row_of_grid), rows - 1);
        const int members = item.section ? s.n_head / s.n_kv : 1;
        const T* part = (item.section == 0 ? d.q : item.section == 1 ? d.k : d.v) + size_t(row) * s.q_width() +
                        item.head * members * s.head_dim;
        const u32 place = angles.place(row);
        Packed<T> packed_y[2];
        if (NORMED) EACH_RUN fetch(y + size_t(row) * ldy + item.column + item.run[h], packed_y[h]);
        float x[2][8];
        EACH x[h][e] = 0.0f;
#pragma unroll 1
        for (int g = 0; g < members; g += M) {
            Packed<T> packed[M][2] = {};
#pragma unroll
            for (int m = 0; m < M; ++m)
                if (g + m < members) EACH_RUN fetch(part + (g + m) * s.head_dim + item.run[h], packed[m][h]);
#pragma unroll
            for (int m = 0; m < M; ++m) {
                if (g + m >= members) continue;
                float next[2][8];
                EACH_RUN unpack(packed[m][h], next[h]);
                EACH x[h][e] += next[h][e];
            }
        }
        const Turn turn(angles, place, item);
        if constexpr (NORMED) {
            float was[2][8];
            EACH_RUN unpack(packed_y[h], was[h]);
            add_bias(s.bias, item, was);
            if (s.clip > 0.0f) EACH was[h][e] = clipped(was[h][e], s.clip);
            if (s.norm_after) turn_item(item, angles.pairing, turn, 1.0f, was);
            else turn_item(item, angles.pairing, turn, -1.0f, x);
            norm_item_backward(ItemNorm(s, item), item, was, x);
        }
        if (!NORMED || s.norm_after) turn_item(item, angles.pairing, turn, -1.0f, x);
        if (s.clip > 0.0f) {
            float was[2][8];
            EACH_RUN load<8>(y + size_t(row) * ldy + item.column + item.run[h], was[h]);
            add_bias(s.bias, item, was);
            EACH x[h][e] = fabsf(was[h][e]) <= s.clip ? x[h][e] : 0.0f;
        }
        if (int(row_of_grid) >= rows) continue;
        T* to = dy + size_t(row) * lddy;
        EACH_RUN store<8>(to + item.column + item.run[h], x[h]);
        EACH x[h][e] = 0.0f;
        for (int c = s.width() + 8 * int(i); c < lddy; c += 8 * int(per_row)) store<8>(to + c, x[0]);
    }
}
#undef EACH
#undef EACH_RUN

// ---- Kernels ----

#define SHAPE_PARAMETERS                                                                                              \
    const float *bias, float clip, const float *q_gain, const float *q_bias, float q_eps, int q_size, int q_gain_len, \
        const float *k_gain, const float *k_bias, float k_eps, int k_size, int k_gain_len, int norm_kind,             \
        int norm_after, const float *cos_q, const float *sin_q, int half_q, const float *cos_k, const float *sin_k,   \
        int half_k, const u32 *rows_q, const u32 *rows_k, int pairing, int n_head, int n_kv, int head_dim, int layout
#define SHAPE                                                                                                         \
    {bias, clip, {q_gain, q_bias, q_eps, q_size, q_gain_len, norm_kind},                                              \
     {k_gain, k_bias, k_eps, k_size, k_gain_len, norm_kind}, norm_after, {cos_q, sin_q, rows_q, half_q, pairing},     \
     {cos_k, sin_k, rows_k, half_k, pairing}, n_head, n_kv, head_dim, layout}

// y [rows, ldy] → q [rows, n_head·head_dim], and k, v [·, n_kv·head_dim] in rows `kv_rows[i]`, or i: bias is added,
// values beyond ±clip are cut, queries and keys are normed in runs (norm_kind 1: RMS, 2: layer norm) before or after
// they turn: a' = a·cos − b·sin, b' = b·cos + a·sin for the pairs (i, i + half), or (2i, 2i + 1) with pairing 1, of
// each head's first 2·half features, by row `rows_q[i]`, or i, of q's tables [·, half_q], and likewise of k's. Columns
// of y: q|k|v, or with layout 1 for each key head its queries, its key, its value. qkv_forward is for norm_kind 0
// alone, qkv_norm_forward for the others.
template <int ROWS, bool NORMED, int THREADS, class T>
__device__ __forceinline__ void qkv_forward(const T* y, int ldy, const Shape& s, const u32* kv_rows,
                                            const Matrices<T>& to, int rows) {
    const bool fast = s.grouped() && ldy % 8 == 0 && aligned<8>(y) && aligned<8>(to.q) && aligned<8>(to.k) &&
                      aligned<8>(to.v);
    if (fast && s.head_dim % 16 == 0 && (!NORMED || s.normed_by_heads())) {
        forward_items<ROWS, NORMED, THREADS>(y, ldy, s, kv_rows, to, rows);
        return;
    }
#pragma unroll 1
    for (size_t r = blockIdx.x; r < size_t(rows); r += gridDim.x) {
        const Shape at = s.at_row(r);
        const size_t kv_row = kv_rows ? kv_rows[r] : r;
        const Matrices<T> row = {to.q + r * s.q_width(), to.k + kv_row * s.k_width(), to.v + kv_row * s.k_width()};
        if constexpr (NORMED) norm_forward_row(y + r * ldy, at, row, fast);
        else forward_row(y + r * ldy, at, row);
    }
}
#define QKV_FORWARD(NAME, T, ROWS, NORMED, THREADS, BLOCKS)                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)                                                    \
        NAME(const T* y, int ldy, SHAPE_PARAMETERS, const u32* kv_rows, T* q, T* k, T* v, int rows) {                \
        const Shape s = SHAPE;                                                                                       \
        qkv_forward<ROWS, NORMED, THREADS>(y, ldy, s, kv_rows, Matrices<T>{q, k, v}, rows);                          \
    }                                                                                                                \
    KERNEL_EXPORT(NAME)
QKV_FORWARD(qkv_forward_bf16, bf16, 2, false, DIRECT, 6)
QKV_FORWARD(qkv_forward_f32, float, 1, false, DIRECT, 7)
QKV_FORWARD(qkv_norm_forward_bf16, bf16, 1, true, BLOCK, 3)
QKV_FORWARD(qkv_norm_forward_f32, float, 1, true, BLOCK, 3)

// The gradient of y [rows, lddy], zeros in its tail, from dq, dk, dv [rows, n_head·head_dim]: those of keys and values
// hold a part for each query head, which are added up in ascending order. y may be null without norms and clip. Kinds
// of norm as above.
template <bool NORMED, int THREADS, class T>
__device__ __forceinline__ void qkv_backward(const Matrices<const T>& d, const T* y, int ldy, const Shape& s, T* dy,
                                             int lddy, int rows) {
    const bool fast = s.grouped() && ldy % 8 == 0 && lddy % 8 == 0 && aligned<8>(y) && aligned<8>(d.q) &&
                      aligned<8>(d.k) && aligned<8>(d.v) && aligned<8>(dy);
    if (fast && s.head_dim % 16 == 0 && (!NORMED || s.normed_by_heads())) {
        backward_items<NORMED, THREADS>(d, y, ldy, s, dy, lddy, rows);
        return;
    }
#pragma unroll 1
    for (size_t r = blockIdx.x; r < size_t(rows); r += gridDim.x) {
        const Shape at = s.at_row(r);
        const size_t from = r * s.q_width();
        const Matrices<const T> row = {d.q + from, d.k + from, d.v + from};
        if constexpr (NORMED) norm_backward_row(row, y + r * ldy, at, dy + r * lddy, fast);
        else backward_row(row, y + r * ldy, at, dy + r * lddy);
        zero_tail(dy + r * lddy, s.width(), lddy);
    }
}
#define QKV_BACKWARD(NAME, T, NORMED, THREADS, BLOCKS)                                                               \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)                                                    \
        NAME(const T* dq, const T* dk, const T* dv, const T* y, int ldy, SHAPE_PARAMETERS, T* dy, int lddy,          \
             int rows) {                                                                                             \
        const Shape s = SHAPE;                                                                                       \
        qkv_backward<NORMED, THREADS>(Matrices<const T>{dq, dk, dv}, y, ldy, s, dy, lddy, rows);                     \
    }                                                                                                                \
    KERNEL_EXPORT(NAME)
QKV_BACKWARD(qkv_backward_bf16, bf16, false, DIRECT, 7)
QKV_BACKWARD(qkv_backward_f32, float, false, DIRECT, 7)
QKV_BACKWARD(qkv_norm_backward_bf16, bf16, true, BLOCK, 2)
QKV_BACKWARD(qkv_norm_backward_f32, float, true, BLOCK, 2)
