// Attention over packed prefix trees: o_i = sum_j p_ij·v_j, p_i = softmax_j(cap(scale·q_i·k_j)) over the keys that query i
// sees, cap(s) = c·tanh(s/c) if the soft-cap c > 0. Called by the device form of ops/tree_attention, which has the gradients:
// with D_i = sum(do_i·o_i): dv_j = sum_i p_ij·do_i, ds_ij = p_ij·(do_i·v_j − D_i)·cap'(s_ij), dq_i = scale·sum_j ds_ij·k_j,
// dk_j = scale·sum_i ds_ij·q_i.
//
// q, o, do, dq [rows, n_head·head_dim]; k, v [key rows, n_kv·head_dim]; lse, delta [rows, n_head], lse in natural logarithms.
// dk, dv [rows, n_head·head_dim]: the part of each query head. Grids are (tiles, n_head).
//
// Query tiles, 8 integers: q0 (row of q), qn (1 to 64), p0, pn (prefix rows of k and v), o0 (row of k and v of the span's first
// query), first (offset of q0 in its span), 0, 0. Virtual key j is row p0 + j for j < pn, else o0 + j − pn. Query i has
// position pn + first + i; it sees j ≤ position, and with a window position − j < window.
// Key tiles, 8 integers: k0 (row), kn (1 to 64), q0, q1, 0...: of the query rows r in q0..q1 those see key row s that have
// s ≤ r, and with a window positions[r] − positions[s] < window.
//
// A query's keys come in blocks that start at virtual key 0, whichever tile the query is in; a block that a query does not
// see changes nothing of its sums, to the bit. Its result depends on its own keys alone.
//
// Threads and dynamic shared memory (bytes):
//   plain forward                          128   4·(80·head_dim + 64)
//   plain backward_kv, backward_q          128   4·(96·head_dim + 64)
//   mma forward D <= 128, D = 256          128   2·(D + 8)·320, 2·(D + 8)·192
//   mma backward_kv D = 64                 128   2·(D + 8)·384 + 1536
//   mma backward_kv D = 96, 128; 256       128; 256   2·(D + 8)·256 + 768
//   mma backward_q D <= 128, D = 256       128   2·(D + 8)·384, 2·(D + 8)·256
//   delta                                  128   0
// The mma forms need head_dim, ldo and lddo to be multiples of 8 and all pointers at 16-byte boundaries.
#include "common.cuh"

constexpr float LOG2E = 1.4426950408889634f;
[[maybe_unused]] constexpr float LN2 = 0.6931471805599453f;

struct QueryTile {
    int q0, qn, p0, pn, o0, position;

    // The tile of this block: last first, since later ones see more keys.
    __device__ explicit QueryTile(const int* tiles) {
        const int* t = tiles + 8 * (gridDim.x - 1 - blockIdx.x);
        q0 = t[0], qn = t[1], p0 = t[2], pn = t[3], o0 = t[4], position = t[3] + t[5];
    }
    __device__ int keys() const { return position + qn; }
    // Row of k and v of virtual key j < keys().
    __device__ int key_row(int j) const { return j + (j < pn ? p0 : o0 - pn); }
    // First key that query i may see, rounded down to a block of keys.
    __device__ int first_key(int i, int window, int block) const {
        return window > 0 ? max(0, position + i - window + 1) / block * block : 0;
    }
};

// ---- delta[row, head] = sum of do·o over the head ----

template <class T>
__device__ __forceinline__ float dot8(const T* a, const T* b) {
    float x[8], y[8], sum = 0.0f;
    load8(a, x);
    load8(b, y);
#pragma unroll
    for (int i = 0; i < 8; ++i) sum += x[i] * y[i];
    return sum;
}

// A group of `lanes` neighbouring lanes (a power of 2) does one head.
template <class T>
__device__ __forceinline__ void delta_rows(const T* d_o, int lddo, const T* o, int ldo, float* delta, int n_head,
                                           int head_dim) {
    const T* a = d_o + size_t(blockIdx.x) * lddo;
    const T* b = o + size_t(blockIdx.x) * ldo;
    const bool by8 = head_dim % 8 == 0 && lddo % 8 == 0 && ldo % 8 == 0 && aligned16(d_o) && aligned16(o);
    int lanes = 32;
    while (by8 && lanes / 2 * 8 >= head_dim) lanes /= 2;
    const int groups = int(blockDim.x) / lanes, lane = int(threadIdx.x) % lanes;
    for (int base = 0; base < n_head; base += groups) {
        const int head = base + int(threadIdx.x) / lanes, at = head * head_dim;
        float sum = 0.0f;
        if (head < n_head && by8 && lane * 8 < head_dim) sum = dot8(a + at + lane * 8, b + at + lane * 8);
        if (head < n_head && !by8)
            for (int i = lane; i < head_dim; i += 32) sum += to_float(a[at + i]) * to_float(b[at + i]);
        for (int step = lanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, step);
        if (head < n_head && lane == 0) delta[size_t(blockIdx.x) * n_head + head] = sum;
    }
}

// ---- Plain forms: any head_dim up to 256, f32 arithmetic. A warp owns 4 rows and meets 32 rows at a time, one a lane. ----

[[maybe_unused]] constexpr int OWN = 4, OWNS = 16, MET = 32, PARTS = 8;

__device__ __forceinline__ float capped(float s, float softcap) {
    return softcap > 0.0f ? softcap * tanhf(s / softcap) : s;
}

// Derivative of the soft-cap where it gives `s`.
__device__ __forceinline__ float cap_slope(float s, float softcap) {
    return softcap > 0.0f ? 1.0f - s / softcap * (s / softcap) : 1.0f;
}

// Rows of one head to shared memory, zeros where row_of(r) < 0.
template <class T, class RowOf>
__device__ __forceinline__ void load_plain(float* to, int pitch, const T* from, size_t ld, int rows, int head_dim,
                                           RowOf row_of) {
    for (int r = int(threadIdx.x) / 32; r < rows; r += 4) {
        const int row = row_of(r);
        for (int c = int(threadIdx.x) % 32; c < head_dim; c += 32)
            to[r * pitch + c] = row < 0 ? 0.0f : to_float(from[size_t(row) * ld + c]);
    }
}

// dots[i] = own[i]·met, the warp's own rows and the lane's row.
__device__ __forceinline__ void own_dots(float (&dots)[OWN], const float* own, const float* met, int head_dim) {
#pragma unroll
    for (int i = 0; i < OWN; ++i) dots[i] = 0.0f;
    for (int c = 0; c < head_dim; ++c) {
        const float x = met[c];
#pragma unroll
        for (int i = 0; i < OWN; ++i) dots[i] += own[i * head_dim + c] * x;
    }
}

// sums[i][p] += sum over the lanes of weights[i]·met row of that lane; column 32·p + lane.
__device__ __forceinline__ void add_met(float (&sums)[OWN][PARTS], const float (&weights)[OWN], const float* met, int pitch,
                                        int head_dim) {
    const int lane = int(threadIdx.x) % 32;
    for (int r = 0; r < MET; ++r) {
        float w[OWN];
#pragma unroll
        for (int i = 0; i < OWN; ++i) w[i] = __shfl_sync(ALL_LANES, weights[i], r);
#pragma unroll
        for (int p = 0; p < PARTS; ++p) {
            const float x = 32 * p + lane < head_dim ? met[r * pitch + 32 * p + lane] : 0.0f;
#pragma unroll
            for (int i = 0; i < OWN; ++i) sums[i][p] += w[i] * x;
        }
    }
}

template <class T>
__device__ __forceinline__ void store_plain(T* to, const float (&sums)[PARTS], float factor, int head_dim) {
    const int lane = int(threadIdx.x) % 32;
#pragma unroll
    for (int p = 0; p < PARTS; ++p)
        if (32 * p + lane < head_dim) to[32 * p + lane] = from_float<T>(factor * sums[p]);
}

// Adds a block of keys with scores s (−inf: not seen) to a query's running maximum, total and mix; s becomes the weight.
__device__ __forceinline__ void soften(float& s, float& most, float& total, float (&mix)[PARTS]) {
    const float now = fmaxf(most, warp_max(s)), base = now == -infinity() ? 0.0f : now;
    const float shrink = expf(most - base);
    s = expf(s - base);
    total = total * shrink + warp_sum(s);
#pragma unroll
    for (int p = 0; p < PARTS; ++p) mix[p] *= shrink;
    most = now;
}

template <class T>
__device__ __forceinline__ void forward_plain(const T* q, const T* k, const T* v, const int* tiles, T* o, int ldo, float* lse,
                                              int n_head, int n_kv, int head_dim, float scale, float softcap, int window) {
    DYNAMIC_SMEM(float, smem);
    const QueryTile tile(tiles);
    const int head = int(blockIdx.y), kv_head = head / (n_head / n_kv), pitch = head_dim + 1;
    const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, kv_width = n_kv * head_dim;
    float *own = smem, *keys = own + OWNS * head_dim, *values = keys + MET * pitch;
    if (head == 0)
        for (int i = 0; i < tile.qn; ++i) zero_tail(o + size_t(tile.q0 + i) * ldo, n_head * head_dim, ldo);
    for (int base = 0; base < tile.qn; base += OWNS) {
        float most[OWN], total[OWN] = {}, mix[OWN][PARTS] = {};
        for (int i = 0; i < OWN; ++i) most[i] = -infinity();
        __syncthreads();
        load_plain(own, head_dim, q + head * head_dim, size_t(n_head) * head_dim, OWNS, head_dim,
                   [&](int r) { return base + r < tile.qn ? tile.q0 + base + r : -1; });
        const int end = min(tile.position + base + OWNS, tile.keys());
        for (int j0 = tile.first_key(base, window, MET); j0 < end; j0 += MET) {
            const auto row_of = [&](int r) { return j0 + r < tile.keys() ? tile.key_row(j0 + r) : -1; };
            __syncthreads();
            load_plain(keys, pitch, k + kv_head * head_dim, kv_width, MET, head_dim, row_of);
            load_plain(values, pitch, v + kv_head * head_dim, kv_width, MET, head_dim, row_of);
            __syncthreads();
            float s[OWN];
            own_dots(s, own + warp * OWN * head_dim, keys + lane * pitch, head_dim);
#pragma unroll
            for (int i = 0; i < OWN; ++i) {
                const int back = tile.position + base + warp * OWN + i - (j0 + lane);
                s[i] = back < 0 || (window > 0 && back >= window) ? -infinity() : capped(__fmul_rn(scale, s[i]), softcap);
                soften(s[i], most[i], total[i], mix[i]);
            }
            add_met(mix, s, values, pitch, head_dim);
        }
#pragma unroll
        for (int i = 0; i < OWN; ++i) {
            const int row = base + warp * OWN + i;
            if (row >= tile.qn) continue;
            store_plain(o + size_t(tile.q0 + row) * ldo + head * head_dim, mix[i], 1.0f / total[i], head_dim);
            if (lane == 0) lse[size_t(tile.q0 + row) * n_head + head] = most[i] + logf(total[i]);
        }
    }
}

// p = e^(s − lse) from s = scale·q·k, and ds from dp = do·v; both 0 if not seen.
__device__ __forceinline__ void weigh(float& s, float& dp, bool seen, float lse, float delta, float scale, float softcap) {
    const float score = capped(__fmul_rn(scale, s), softcap);
    const float p = seen ? expf(score - lse) : 0.0f;
    dp = seen ? p * (dp - delta) * cap_slope(score, softcap) : 0.0f;
    s = p;
}

template <class T>
__device__ __forceinline__ void backward_kv_plain(const T* q, const T* k, const T* v, const T* d_o, int lddo, const float* lse,
                                                  const float* delta, const int* ktiles, const u32* positions, T* dk, T* dv,
                                                  int n_head, int n_kv, int head_dim, float scale, float softcap, int window) {
    DYNAMIC_SMEM(float, smem);
    const int* tile = ktiles + 8 * blockIdx.x;
    const int k0 = tile[0], kn = tile[1], q0 = tile[2], q1 = tile[3];
    const int head = int(blockIdx.y), kv_head = head / (n_head / n_kv), pitch = head_dim + 1;
    const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
    const size_t width = size_t(n_head) * head_dim, kv_width = size_t(n_kv) * head_dim;
    float *keys = smem, *values = keys + OWNS * head_dim, *queries = values + OWNS * head_dim, *slopes = queries + MET * pitch;
    for (int base = 0; base < kn; base += OWNS) {
        float sum_k[OWN][PARTS] = {}, sum_v[OWN][PARTS] = {};
        const auto key_row = [&](int r) { return base + r < kn ? k0 + base + r : -1; };
        __syncthreads();
        load_plain(keys, head_dim, k + kv_head * head_dim, kv_width, OWNS, head_dim, key_row);
        load_plain(values, head_dim, v + kv_head * head_dim, kv_width, OWNS, head_dim, key_row);
        for (int r0 = q0; r0 < q1; r0 += MET) {
            const auto row_of = [&](int r) { return r0 + r < q1 ? r0 + r : -1; };
            __syncthreads();
            load_plain(queries, pitch, q + head * head_dim, width, MET, head_dim, row_of);
            load_plain(slopes, pitch, d_o + head * head_dim, lddo, MET, head_dim, row_of);
            __syncthreads();
            const int row = r0 + lane;
            const bool real = row < q1;
            const float row_lse = real ? lse[size_t(row) * n_head + head] : 0.0f;
            const float row_delta = real ? delta[size_t(row) * n_head + head] : 0.0f;
            float s[OWN], ds[OWN];
            own_dots(s, keys + warp * OWN * head_dim, queries + lane * pitch, head_dim);
            own_dots(ds, values + warp * OWN * head_dim, slopes + lane * pitch, head_dim);
#pragma unroll
            for (int i = 0; i < OWN; ++i) {
                const int key = k0 + base + warp * OWN + i;
                bool seen = real && key < k0 + kn && key <= row;
                if (seen && window > 0) seen = int(positions[row] - positions[key]) < window;
                weigh(s[i], ds[i], seen, row_lse, row_delta, scale, softcap);
            }
            add_met(sum_v, s, slopes, pitch, head_dim);
            add_met(sum_k, ds, queries, pitch, head_dim);
        }
#pragma unroll
        for (int i = 0; i < OWN; ++i) {
            const int row = base + warp * OWN + i;
            if (row >= kn) continue;
            const size_t at = size_t(k0 + row) * width + head * head_dim;
            store_plain(dk + at, sum_k[i], scale, head_dim);
            store_plain(dv + at, sum_v[i], 1.0f, head_dim);
        }
    }
}

template <class T>
__device__ __forceinline__ void backward_q_plain(const T* q, const T* k, const T* v, const T* d_o, int lddo, const float* lse,
                                                 const float* delta, const int* tiles, T* dq, int n_head, int n_kv,
                                                 int head_dim, float scale, float softcap, int window) {
    DYNAMIC_SMEM(float, smem);
    const QueryTile tile(tiles);
    const int head = int(blockIdx.y), kv_head = head / (n_head / n_kv), pitch = head_dim + 1;
    const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, kv_width = n_kv * head_dim;
    const size_t width = size_t(n_head) * head_dim;
    float *queries = smem, *slopes = queries + OWNS * head_dim, *keys = slopes + OWNS * head_dim, *values = keys + MET * pitch;
    for (int base = 0; base < tile.qn; base += OWNS) {
        float sum[OWN][PARTS] = {};
        const auto query_row = [&](int r) { return base + r < tile.qn ? tile.q0 + base + r : -1; };
        __syncthreads();
        load_plain(queries, head_dim, q + head * head_dim, width, OWNS, head_dim, query_row);
        load_plain(slopes, head_dim, d_o + head * head_dim, lddo, OWNS, head_dim, query_row);
        const int end = min(tile.position + base + OWNS, tile.keys());
        for (int j0 = tile.first_key(base, window, MET); j0 < end; j0 += MET) {
            const auto row_of = [&](int r) { return j0 + r < tile.keys() ? tile.key_row(j0 + r) : -1; };
            __syncthreads();
            load_plain(keys, pitch, k + kv_head * head_dim, kv_width, MET, head_dim, row_of);
            load_plain(values, pitch, v + kv_head * head_dim, kv_width, MET, head_dim, row_of);
            __syncthreads();
            float s[OWN], ds[OWN];
            own_dots(s, queries + warp * OWN * head_dim, keys + lane * pitch, head_dim);
            own_dots(ds, slopes + warp * OWN * head_dim, values + lane * pitch, head_dim);
#pragma unroll
            for (int i = 0; i < OWN; ++i) {
                const int row = base + warp * OWN + i, back = tile.position + row - (j0 + lane);
                const bool real = row < tile.qn, seen = real && back >= 0 && (window == 0 || back < window);
                const size_t at = size_t(tile.q0 + row) * n_head + head;
                weigh(s[i], ds[i], seen, real ? lse[at] : 0.0f, real ? delta[at] : 0.0f, scale, softcap);
            }
            add_met(sum, ds, keys, pitch, head_dim);
        }
#pragma unroll
        for (int i = 0; i < OWN; ++i) {
            const int row = base + warp * OWN + i;
            if (row < tile.qn)
                store_plain(dq + size_t(tile.q0 + row) * width + head * head_dim, sum[i], scale, head_dim);
        }
    }
}

#define PLAIN_ENTRIES(T)                                                                                                     \
    extern "C" __global__ void __launch_bounds__(128)                                                                        \
        attention_delta_##T(const T* d_o, int lddo, const T* o, int ldo, float* delta, int n_head, int head_dim) {           \
        delta_rows<T>(d_o, lddo, o, ldo, delta, n_head, head_dim);                                                           \
    }                                                                                                                        \
    KERNEL_EXPORT(attention_delta_##T)                                                                                       \
    extern "C" __global__ void __launch_bounds__(128)                                                                        \
        attention_forward_##T(const T* q, const T* k, const T* v, const int* tiles, T* o, int ldo, float* lse, int n_head,   \
                              int n_kv, int head_dim, float scale, float softcap, int window) {                              \
        forward_plain<T>(q, k, v, tiles, o, ldo, lse, n_head, n_kv, head_dim, scale, softcap, window);                       \
    }                                                                                                                        \
    KERNEL_EXPORT(attention_forward_##T)                                                                                     \
    extern "C" __global__ void __launch_bounds__(128) attention_backward_kv_##T(                                             \
        const T* q, const T* k, const T* v, const T* d_o, int lddo, const float* lse, const float* delta, const int* ktiles, \
        const u32* positions, T* dk, T* dv, int n_head, int n_kv, int head_dim, float scale, float softcap, int window) {    \
        backward_kv_plain<T>(q, k, v, d_o, lddo, lse, delta, ktiles, positions, dk, dv, n_head, n_kv, head_dim, scale,       \
                             softcap, window);                                                                               \
    }                                                                                                                        \
    KERNEL_EXPORT(attention_backward_kv_##T)                                                                                 \
    extern "C" __global__ void __launch_bounds__(128) attention_backward_q_##T(                                              \
        const T* q, const T* k, const T* v, const T* d_o, int lddo, const float* lse, const float* delta, const int* tiles,  \
        T* dq, int n_head, int n_kv, int head_dim, float scale, float softcap, int window) {                                 \
        backward_q_plain<T>(q, k, v, d_o, lddo, lse, delta, tiles, dq, n_head, n_kv, head_dim, scale, softcap, window);      \
    }                                                                                                                        \
    KERNEL_EXPORT(attention_backward_q_##T)

typedef float f32;
// Compiled for a card, each padded head size is a module of its own (HEAD), so that only what is used is loaded.
#if !defined(HEAD) || HEAD == 0
PLAIN_ENTRIES(f32)
PLAIN_ENTRIES(bf16)
#endif

// ---- Tensor-core forms: bf16, a warp owns 16 rows. Rows in shared memory are D + 8 elements apart: no bank conflicts. ----

template <int D>
constexpr int PITCH = D + 8;

// Where a lane's row starts for ldmatrix_x4, from the first element of 16 rows × 16 columns: as the left operand, or
// transposed as the right one (rows are summed over) ...
template <int D>
__device__ __forceinline__ int lane_down() {
    return int(threadIdx.x) % 16 * PITCH<D> + int(threadIdx.x) % 32 / 16 * 8;
}
// ... and as the right operand whose columns are summed over.
template <int D>
__device__ __forceinline__ int lane_across() {
    return (int(threadIdx.x) % 32 / 16 * 8 + int(threadIdx.x) % 8) * PITCH<D> + int(threadIdx.x) / 8 % 2 * 8;
}

// c[16, N] += a[16, 16] · b, b: 16 rows × N columns, at `b` for this lane (lane_down). Loads of 32 or 64 columns go ahead.
template <int D, int N>
__device__ __forceinline__ void times_columns(float (&c)[N / 8][4], const u32 (&a)[4], const bf16* b) {
    constexpr int AHEAD = N % 64 == 0 ? 4 : 2;
#pragma unroll
    for (int start = 0; start < N / 16; start += AHEAD) {
        u32 r[AHEAD][4];
#pragma unroll
        for (int n = 0; n < AHEAD; ++n) ldmatrix_x4_trans(r[n], b + (start + n) * 16);
#pragma unroll
        for (int n = 0; n < AHEAD; ++n) {
            mma_bf16(c[2 * (start + n)], a, r[n][0], r[n][1]);
            mma_bf16(c[2 * (start + n) + 1], a, r[n][2], r[n][3]);
        }
    }
}
// c[16, N] += a · bᵀ over D columns: N rows at `b` (lane_across); left(a, step) gives the left operand of 16 columns. The
// loads of a step go ahead of the products of the one before.
template <int D, int N, class Left>
__device__ __forceinline__ void times_rows(float (&c)[N / 8][4], const bf16* b, Left left) {
    u32 a[2][4], r[2][N / 16][4];
    const auto load = [&](int step) {
        left(a[step % 2], step);
#pragma unroll
        for (int n = 0; n < N / 16; ++n) ldmatrix_x4(r[step % 2][n], b + n * 16 * PITCH<D> + step * 16);
    };
    load(0);
#pragma unroll
    for (int step = 0; step < D / 16; ++step) {
        if (step + 1 < D / 16) load(step + 1);
#pragma unroll
        for (int n = 0; n < N / 16; ++n) {
            mma_bf16(c[2 * n], a[step % 2], r[step % 2][n][0], r[step % 2][n][1]);
            mma_bf16(c[2 * n + 1], a[step % 2], r[step % 2][n][2], r[step % 2][n][3]);
        }
    }
}
// Likewise, with 16 rows at `a` (lane_down).
template <int D, int N>
__device__ __forceinline__ void rows_by_rows(float (&c)[N / 8][4], const bf16* a, const bf16* b) {
    times_rows<D, N>(c, b, [&](u32(&part)[4], int step) { ldmatrix_x4(part, a + step * 16); });
}
// c[16, N] += bf16(w[16, K]) · b, b: K rows × N columns (lane_down).
template <int D, int K, int N>
__device__ __forceinline__ void weights_by_rows(float (&c)[N / 8][4], const float (&w)[K / 8][4], const bf16* b) {
#pragma unroll
    for (int step = 0; step < K / 16; ++step) {
        const float(&x)[4] = w[2 * step];
        const float(&y)[4] = w[2 * step + 1];
        const u32 a[4] = {pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(y[0], y[1]), pack_bf16(y[2], y[3])};
        times_columns<D, N>(c, a, b + step * 16 * PITCH<D>);
    }
}

// Starts to copy rows row_of(0..count) of one head, at most ROWS; zeros in the others, and from column head_dim.
template <int D, int ROWS, int THREADS, class RowOf>
__device__ __forceinline__ void load_rows(bf16* to, const bf16* from, int ld, int head_dim, int count, RowOf row_of) {
    constexpr int CHUNKS = D / 8;
    static_assert(ROWS * CHUNKS % THREADS == 0, "every thread copies as many");
    const u8* bytes = reinterpret_cast<const u8*>(from);
    const u32 pitch = u32(ld) * 2;
#pragma unroll 4
    for (int i = 0; i < ROWS * CHUNKS / THREADS; ++i) {
        const int at = i * THREADS + int(threadIdx.x), r = at / CHUNKS, c = at % CHUNKS * 8;
        const u64 start = u64(pitch) * u32(row_of(min(r, count - 1)));
        cp_async16(to + r * PITCH<D> + c, bytes + 2 * c + start, r < count && c < head_dim);
    }
}

// Rounds a warp's c[16, N] (times f0 in rows 0 to 7, f1 in rows 8 to 15) into its own rows at `stage` in shared memory, and
// stores the first `rows` × `columns` of it.
template <int D, int N>
__device__ __forceinline__ void store_rows(bf16* stage, const float (&c)[N / 8][4], float f0, float f1, bf16* to, size_t ld,
                                           int rows, int columns) {
    const int lane = int(threadIdx.x) % 32;
    u32* mine = reinterpret_cast<u32*>(stage + lane / 4 * PITCH<D> + lane % 4 * 2);
    __syncwarp();
#pragma unroll
    for (int n = 0; n < N / 8; ++n) {
        mine[n * 4] = pack_bf16(f0 * c[n][0], f0 * c[n][1]);
        mine[n * 4 + 4 * PITCH<D>] = pack_bf16(f1 * c[n][2], f1 * c[n][3]);
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < N / 16; ++i) {
        const int at = i * 32 + lane, r = at / (N / 8), column = at % (N / 8) * 8;
        if (r < rows && column < columns)
            *reinterpret_cast<uint4*>(to + size_t(r) * ld + column) =
                *reinterpret_cast<const uint4*>(stage + r * PITCH<D> + column);
    }
}

// Row (0 to 15) and column within a warp's product of accumulator i of columns 8n..8n + 8.
__device__ __forceinline__ int row_of_accumulator(int i) { return int(threadIdx.x) % 32 / 4 + i / 2 * 8; }
__device__ __forceinline__ int column_of_accumulator(int n, int i) { return n * 8 + int(threadIdx.x) % 4 * 2 + i % 2; }

// f(x[n][i], n, i) for all accumulators of this lane.
template <int N, class F>
__device__ __forceinline__ void each(float (&x)[N][4], F f) {
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) f(x[n][i], n, i);
}

// From q·k to scores in units of log 2. A product here must not merge with a later sum: whether a block is masked, which
// depends on other rows, may not change a bit.
struct Scores {
    float factor, cap;

    __device__ Scores(float scale, float softcap) {
        factor = softcap > 0.0f ? scale / softcap : scale * LOG2E;
        cap = softcap > 0.0f ? softcap * LOG2E : 0.0f;
    }
    // tanh(x) = 1 − 2 / (e^2x + 1), to 2^-22
    __device__ float ratio(float x) const { return 1.0f - __fdividef(2.0f, fast_exp2(2.0f * LOG2E * x) + 1.0f); }

    // s: q·k, becomes the scores.
    template <int N>
    __device__ __forceinline__ void score(float (&s)[N][4]) const {
        if (cap == 0.0f) each(s, [&](float& x, int, int) { x = __fmul_rn(x, factor); });
        else each(s, [&](float& x, int, int) { x = __fmul_rn(cap, ratio(factor * x)); });
    }
    // Also, `slopes` times the derivative of the soft-cap.
    template <int N>
    __device__ __forceinline__ void score(float (&s)[N][4], float (&slopes)[N][4]) const {
        if (cap == 0.0f) {
            each(s, [&](float& x, int, int) { x = __fmul_rn(x, factor); });
        } else {
            each(s, [&](float& x, int n, int i) {
                const float t = ratio(factor * x);
                x = __fmul_rn(cap, t);
                slopes[n][i] *= 1.0f - t * t;
            });
        }
    }
};

// The positions of a warp's 16 query rows, and what they see of a block of keys.
struct Strip {
    int first, window;

    __device__ int last() const { return first + 15; }
    __device__ bool sees_none(int j0, int n) const {
        return j0 > last() || (window > 0 && first - (j0 + n - 1) >= window);
    }
    __device__ bool sees_all(int j0, int n) const { return j0 + n - 1 <= first && (window == 0 || last() - j0 < window); }
    // Scores of the keys from j0 that a row does not see become −inf.
    template <int N>
    __device__ __forceinline__ void mask(float (&s)[N][4], int j0) const {
        if (sees_all(j0, 8 * N)) return;
        each(s, [&](float& x, int n, int i) {
            const int back = first + row_of_accumulator(i) - (j0 + column_of_accumulator(n, i));
            if (back < 0 || (window > 0 && back >= window)) x = -infinity();
        });
    }
};

// Over the four lanes that share a row.
__device__ __forceinline__ float row_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 1));
    return fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 2));
}
__device__ __forceinline__ float row_sum(float x) {
    x += __shfl_xor_sync(ALL_LANES, x, 1);
    return x + __shfl_xor_sync(ALL_LANES, x, 2);
}

template <int D>
constexpr int FORWARD_KEYS = D > 128 ? 32 : 64;

// s: q·k of a block of keys, becomes the weights; `most` and `total` (of this lane's columns) are of rows g and g + 8.
template <int KEYS, int N>
__device__ __forceinline__ void soften_block(float (&s)[KEYS / 8][4], float (&mix)[N][4], float (&most)[2], float (&total)[2],
                                             const Scores& scores, const Strip& strip, int j0) {
    scores.score(s);
    strip.mask(s, j0);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        float now = most[h];
#pragma unroll
        for (int n = 0; n < KEYS / 8; ++n) now = fmaxf(now, fmaxf(s[n][2 * h], s[n][2 * h + 1]));
        now = row_max(now);
        const float base = now == -infinity() ? 0.0f : now, shrink = fast_exp2(most[h] - base);
        most[h] = now;
        total[h] = __fmul_rn(total[h], shrink);
#pragma unroll
        for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
            for (int i = 2 * h; i < 2 * h + 2; ++i) {
                s[n][i] = fast_exp2(s[n][i] - base);
                total[h] += s[n][i];
            }
#pragma unroll
        for (int n = 0; n < N; ++n) mix[n][2 * h] *= shrink, mix[n][2 * h + 1] *= shrink;
    }
}

template <int D>
__device__ __forceinline__ void forward_mma(const bf16* q, const bf16* k, const bf16* v, const int* tiles, bf16* o, int ldo,
                                            float* lse, int n_head, int n_kv, int head_dim, float scale, float softcap,
                                            int window) {
    constexpr int KEYS = FORWARD_KEYS<D>;
    constexpr bool KEPT = D <= 128;   // the queries stay in registers
    DYNAMIC_SMEM(bf16, smem);
    const QueryTile tile(tiles);
    const Scores scores(scale, softcap);
    const int head = int(blockIdx.y), kv_head = head / (n_head / n_kv), warp = int(threadIdx.x) / 32;
    const int width = n_head * head_dim, kv_width = n_kv * head_dim;
    const Strip strip{tile.position + 16 * warp, window};
    bf16 *queries = smem, *keys = queries + 64 * PITCH<D>, *values = keys + 2 * KEYS * PITCH<D>;
    bf16* mine = queries + 16 * warp * PITCH<D>;

    const auto load = [&](int j0, int stage) {
        const auto row_of = [&](int r) { return tile.key_row(j0 + r); };
        const int count = tile.keys() - j0, to = stage * KEYS * PITCH<D>;
        load_rows<D, KEYS, 128>(keys + to, k + kv_head * head_dim, kv_width, head_dim, count, row_of);
        load_rows<D, KEYS, 128>(values + to, v + kv_head * head_dim, kv_width, head_dim, count, row_of);
        cp_async_commit();
    };
    load_rows<D, 64, 128>(queries, q + head * head_dim, width, head_dim, tile.qn, [&](int r) { return tile.q0 + r; });
    int j0 = tile.first_key(0, window, KEYS);
    load(j0, 0);
    if (head == 0)
        for (int i = 0; i < tile.qn; ++i) zero_tail(o + size_t(tile.q0 + i) * ldo, n_head * head_dim, ldo);

    float mix[D / 8][4] = {}, most[2] = {-infinity(), -infinity()}, total[2] = {};
    u32 kept[KEPT ? D / 16 : 1][4];
    bool first = true;
    for (int stage = 0; j0 < tile.keys(); j0 += KEYS, stage ^= 1) {
        cp_async_wait<0>();
        __syncthreads();
        if (j0 + KEYS < tile.keys()) load(j0 + KEYS, stage ^ 1);
        if (KEPT && first) {
#pragma unroll
            for (int step = 0; step < (KEPT ? D / 16 : 0); ++step) ldmatrix_x4(kept[step], mine + lane_down<D>() + step * 16);
        }
        first = false;
        if (16 * warp >= tile.qn || strip.sees_none(j0, KEYS)) continue;
        float s[KEYS / 8][4] = {};
        const bf16* block = keys + stage * KEYS * PITCH<D> + lane_across<D>();
        times_rows<D, KEYS>(s, block, [&](u32(&part)[4], int step) {
            if (!KEPT) ldmatrix_x4(part, mine + lane_down<D>() + step * 16);
            for (int i = 0; KEPT && i < 4; ++i) part[i] = kept[KEPT ? step : 0][i];
        });
        soften_block<KEYS>(s, mix, most, total, scores, strip, j0);
        weights_by_rows<D, KEYS, D>(mix, s, values + stage * KEYS * PITCH<D> + lane_down<D>());
    }

    const int rows = tile.qn - 16 * warp;
    if (rows <= 0) return;
    total[0] = row_sum(total[0]), total[1] = row_sum(total[1]);
    const size_t row0 = size_t(tile.q0) + 16 * warp;
    store_rows<D, D>(mine, mix, 1.0f / total[0], 1.0f / total[1], o + row0 * ldo + head * head_dim, ldo, rows, head_dim);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        const int row = row_of_accumulator(2 * h);
        if (threadIdx.x % 4 == 0 && row < rows) lse[(row0 + row) * n_head + head] = LN2 * (most[h] + log2f(total[h]));
    }
}

// The least position of the query rows r0..end, at most 64.
__device__ __forceinline__ int least_position(const u32* positions, int r0, int end) {
    const int a = r0 + int(threadIdx.x) % 32;
    int least = int(positions[min(a, end - 1)]);
    least = min(least, int(positions[min(a + 32, end - 1)]));
#pragma unroll
    for (int step = 16; step > 0; step /= 2) least = min(least, __shfl_xor_sync(ALL_LANES, least, step));
    return least;
}

// lse (in units of log 2), delta and position of one query row.
struct RowNumbers {
    float lse, delta;
    int position;
};

template <int D>
constexpr int KV_QUERIES = D > 64 ? 32 : 64;
template <int D>
constexpr int KV_THREADS = D > 128 ? 256 : 128;

// Products are transposed: a warp's rows are 16 keys, its columns queries. For D = 256 two warps have the same keys, and
// each one half of the columns of dk and dv.
template <int D>
__device__ __forceinline__ void backward_kv_mma(const bf16* q, const bf16* k, const bf16* v, const bf16* d_o, int lddo,
                                                const float* lse, const float* delta, const int* ktiles, const u32* positions,
                                                bf16* dk, bf16* dv, int n_head, int n_kv, int head_dim, float scale,
                                                float softcap, int window) {
    constexpr int ROWS = KV_QUERIES<D>, THREADS = KV_THREADS<D>, WIDTH = D * 128 / THREADS;
    DYNAMIC_SMEM(bf16, smem);
    const int* tile = ktiles + 8 * blockIdx.x;
    const int k0 = tile[0], kn = tile[1], q0 = tile[2], q1 = tile[3];
    const Scores scores(scale, softcap);
    const int head = int(blockIdx.y), kv_head = head / (n_head / n_kv);
    const int warp = int(threadIdx.x) / 32, strip = warp % 4 * 16, column0 = warp / 4 * WIDTH;
    const int width = n_head * head_dim, kv_width = n_kv * head_dim;
    bf16 *keys = smem, *values = keys + 64 * PITCH<D>, *queries = values + 64 * PITCH<D>;
    bf16* slopes = queries + 2 * ROWS * PITCH<D>;
    RowNumbers* numbers = reinterpret_cast<RowNumbers*>(slopes + 2 * ROWS * PITCH<D>);

    const auto load = [&](int r0, int stage) {
        const auto row_of = [&](int r) { return r0 + r; };
        const int to = stage * ROWS * PITCH<D>;
        load_rows<D, ROWS, THREADS>(queries + to, q + head * head_dim, width, head_dim, q1 - r0, row_of);
        load_rows<D, ROWS, THREADS>(slopes + to, d_o + head * head_dim, lddo, head_dim, q1 - r0, row_of);
        cp_async_commit();
    };
    const auto read_numbers = [&](int r0) {
        const int row = r0 + int(threadIdx.x);
        if (threadIdx.x >= ROWS || row >= q1) return RowNumbers{infinity(), 0.0f, 0};
        const size_t at = size_t(row) * n_head + head;
        return RowNumbers{lse[at] * LOG2E, delta[at], window > 0 ? int(positions[row]) : 0};
    };
    // The next block of query rows at or after r0 that sees the tile.
    const auto next_rows = [&](int r0) {
        const int latest = window > 0 ? int(positions[k0 + kn - 1]) : 0;
        while (window > 0 && r0 < q1 && least_position(positions, r0, min(r0 + ROWS, q1)) - latest >= window) r0 += ROWS;
        return r0;
    };
    const auto key_row = [&](int r) { return k0 + r; };
    load_rows<D, 64, THREADS>(keys, k + kv_head * head_dim, kv_width, head_dim, kn, key_row);
    load_rows<D, 64, THREADS>(values, v + kv_head * head_dim, kv_width, head_dim, kn, key_row);
    int r0 = next_rows(q0);
    load(r0, 0);
    if (threadIdx.x < ROWS) numbers[threadIdx.x] = read_numbers(r0);

    const int key = k0 + strip + row_of_accumulator(0);
    int place[2] = {0, 0};
#pragma unroll
    for (int h = 0; h < 2; ++h)
        if (window > 0) place[h] = int(positions[min(key + 8 * h, k0 + kn - 1)]);

    float sum_k[WIDTH / 8][4] = {}, sum_v[WIDTH / 8][4] = {};
    for (int stage = 0; r0 < q1; stage ^= 1) {
        cp_async_wait<0>();
        __syncthreads();
        const int next = next_rows(r0 + ROWS);
        if (next < q1) load(next, stage ^ 1);
        const RowNumbers coming = read_numbers(next);
        if (strip < kn && r0 + ROWS > k0 + strip) {
            const bf16 *block_q = queries + stage * ROWS * PITCH<D>, *block_do = slopes + stage * ROWS * PITCH<D>;
            const RowNumbers* rows = numbers + stage * ROWS;
            float s[ROWS / 8][4] = {}, ds[ROWS / 8][4] = {};
            rows_by_rows<D, ROWS>(s, keys + strip * PITCH<D> + lane_down<D>(), block_q + lane_across<D>());
            rows_by_rows<D, ROWS>(ds, values + strip * PITCH<D> + lane_down<D>(), block_do + lane_across<D>());
            each(ds, [&](float& x, int n, int i) { x -= rows[column_of_accumulator(n, i)].delta; });
            scores.score(s, ds);
            if (window > 0 || r0 < k0 + strip + 15)
                each(s, [&](float& x, int n, int i) {
                    const int r = column_of_accumulator(n, i);
                    const bool outside = window > 0 && rows[r].position - place[i / 2] >= window;
                    if (key + i / 2 * 8 > r0 + r || outside) x = -infinity();
                });
            each(s, [&](float& x, int n, int i) {
                x = fast_exp2(x - rows[column_of_accumulator(n, i)].lse);
                ds[n][i] *= x;
            });
            weights_by_rows<D, ROWS, WIDTH>(sum_v, s, block_do + column0 + lane_down<D>());
            weights_by_rows<D, ROWS, WIDTH>(sum_k, ds, block_q + column0 + lane_down<D>());
        }
        if (threadIdx.x < ROWS) numbers[(stage ^ 1) * ROWS + int(threadIdx.x)] = coming;
        r0 = next;
    }
    cp_async_wait<0>();
    __syncthreads();
    if (strip >= kn) return;
    const size_t at = size_t(k0 + strip) * width + head * head_dim + column0;
    const int corner = strip * PITCH<D> + column0;
    store_rows<D, WIDTH>(keys + corner, sum_k, scale, scale, dk + at, width, kn - strip, head_dim - column0);
    store_rows<D, WIDTH>(values + corner, sum_v, 1.0f, 1.0f, dv + at, width, kn - strip, head_dim - column0);
}

template <int D>
__device__ __forceinline__ void backward_q_mma(const bf16* q, const bf16* k, const bf16* v, const bf16* d_o, int lddo,
                                               const float* lse, const float* delta, const int* tiles, bf16* dq, int n_head,
                                               int n_kv, int head_dim, float scale, float softcap, int window) {
    constexpr int KEYS = FORWARD_KEYS<D>;
    DYNAMIC_SMEM(bf16, smem);
    const QueryTile tile(tiles);
    const Scores scores(scale, softcap);
    const int head = int(blockIdx.y), kv_head = head / (n_head / n_kv), warp = int(threadIdx.x) / 32;
    const int width = n_head * head_dim, kv_width = n_kv * head_dim;
    const Strip strip{tile.position + 16 * warp, window};
    bf16 *queries = smem, *slopes = queries + 64 * PITCH<D>, *keys = slopes + 64 * PITCH<D>;
    bf16* values = keys + 2 * KEYS * PITCH<D>;
    bf16 *my_queries = queries + 16 * warp * PITCH<D>, *my_slopes = slopes + 16 * warp * PITCH<D>;

    const auto load = [&](int j0, int stage) {
        const auto row_of = [&](int r) { return tile.key_row(j0 + r); };
        const int count = tile.keys() - j0, to = stage * KEYS * PITCH<D>;
        load_rows<D, KEYS, 128>(keys + to, k + kv_head * head_dim, kv_width, head_dim, count, row_of);
        load_rows<D, KEYS, 128>(values + to, v + kv_head * head_dim, kv_width, head_dim, count, row_of);
        cp_async_commit();
    };
    const auto query_row = [&](int r) { return tile.q0 + r; };
    load_rows<D, 64, 128>(queries, q + head * head_dim, width, head_dim, tile.qn, query_row);
    load_rows<D, 64, 128>(slopes, d_o + head * head_dim, lddo, head_dim, tile.qn, query_row);
    int j0 = tile.first_key(0, window, KEYS);
    load(j0, 0);

    float row_lse[2], row_delta[2], sum[D / 8][4] = {};
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        const int row = 16 * warp + row_of_accumulator(2 * h);
        const size_t at = size_t(query_row(row)) * n_head + head;
        row_lse[h] = row < tile.qn ? lse[at] * LOG2E : infinity();
        row_delta[h] = row < tile.qn ? delta[at] : 0.0f;
    }
    for (int stage = 0; j0 < tile.keys(); j0 += KEYS, stage ^= 1) {
        cp_async_wait<0>();
        __syncthreads();
        if (j0 + KEYS < tile.keys()) load(j0 + KEYS, stage ^ 1);
        if (16 * warp >= tile.qn || strip.sees_none(j0, KEYS)) continue;
        const bf16 *block_k = keys + stage * KEYS * PITCH<D>, *block_v = values + stage * KEYS * PITCH<D>;
        float s[KEYS / 8][4] = {}, ds[KEYS / 8][4] = {};
        rows_by_rows<D, KEYS>(s, my_queries + lane_down<D>(), block_k + lane_across<D>());
        rows_by_rows<D, KEYS>(ds, my_slopes + lane_down<D>(), block_v + lane_across<D>());
        each(ds, [&](float& x, int, int i) { x -= row_delta[i / 2]; });
        scores.score(s, ds);
        strip.mask(s, j0);
        each(ds, [&](float& x, int n, int i) { x *= fast_exp2(s[n][i] - row_lse[i / 2]); });
        weights_by_rows<D, KEYS, D>(sum, ds, block_k + lane_down<D>());
    }
    const int rows = tile.qn - 16 * warp;
    if (rows <= 0) return;
    bf16* to = dq + (size_t(tile.q0) + 16 * warp) * width + head * head_dim;
    store_rows<D, D>(my_queries, sum, scale, scale, to, width, rows, head_dim);
}

#define MMA_ENTRIES(D)                                                                                                       \
    extern "C" __global__ void __launch_bounds__(128) attention_forward_mma_##D(                                             \
        const bf16* q, const bf16* k, const bf16* v, const int* tiles, bf16* o, int ldo, float* lse, int n_head, int n_kv,   \
        int head_dim, float scale, float softcap, int window) {                                                              \
        forward_mma<D>(q, k, v, tiles, o, ldo, lse, n_head, n_kv, head_dim, scale, softcap, window);                         \
    }                                                                                                                        \
    KERNEL_EXPORT(attention_forward_mma_##D)                                                                                 \
    extern "C" __global__ void __launch_bounds__(KV_THREADS<D>) attention_backward_kv_mma_##D(                               \
        const bf16* q, const bf16* k, const bf16* v, const bf16* d_o, int lddo, const float* lse, const float* delta,        \
        const int* ktiles, const u32* positions, bf16* dk, bf16* dv, int n_head, int n_kv, int head_dim, float scale,        \
        float softcap, int window) {                                                                                         \
        backward_kv_mma<D>(q, k, v, d_o, lddo, lse, delta, ktiles, positions, dk, dv, n_head, n_kv, head_dim, scale,         \
                           softcap, window);                                                                                 \
    }                                                                                                                        \
    KERNEL_EXPORT(attention_backward_kv_mma_##D)                                                                             \
    extern "C" __global__ void __launch_bounds__(128) attention_backward_q_mma_##D(                                          \
        const bf16* q, const bf16* k, const bf16* v, const bf16* d_o, int lddo, const float* lse, const float* delta,        \
        const int* tiles, bf16* dq, int n_head, int n_kv, int head_dim, float scale, float softcap, int window) {            \
        backward_q_mma<D>(q, k, v, d_o, lddo, lse, delta, tiles, dq, n_head, n_kv, head_dim, scale, softcap, window);        \
    }                                                                                                                        \
    KERNEL_EXPORT(attention_backward_q_mma_##D)

#if !defined(HEAD) || HEAD == 64
MMA_ENTRIES(64)
#endif
#if !defined(HEAD) || HEAD == 96
MMA_ENTRIES(96)
#endif
#if !defined(HEAD) || HEAD == 128
MMA_ENTRIES(128)
#endif
#if !defined(HEAD) || HEAD == 256
MMA_ENTRIES(256)
#endif
