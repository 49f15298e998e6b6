// The trained adapter's matrices between the optimizer's flat f32 buffer and where products read them, and dropout.
#include "common.cuh"
#include "rows.cuh"

constexpr int BLOCK = 256;

// A matrix [rows, cols] at number `from` of the flat buffer with pitch ld_from, and at address `to` with pitch ld_to,
// where it is f32 (kind 0) or bf16 (kind 1). 40 bytes.
struct Entry {
    u64 to;
    i64 from;
    int rows, cols, ld_from, ld_to;
    float scale;
    int kind;
};
static_assert(sizeof(Entry) == 40, "the launcher's layout");

// Calls f(i, j) for this block's part of a matrix, groups of N along the row.
template <int N, class F>
__device__ __forceinline__ void each_group(int rows, int cols, F f) {
    const int per_row = cols / N;
    for (i64 k = blockIdx.y * BLOCK + threadIdx.x; k < i64(rows) * per_row; k += gridDim.y * BLOCK) {
        const int i = int(u32(k) / u32(per_row));
        f(i, N * int(u32(k) - u32(i) * u32(per_row)));
    }
}

template <int N, class T>
__device__ __forceinline__ void pack_matrix(const float* values, const Entry& entry, T* to) {
    each_group<N>(entry.rows, entry.cols, [&](int i, int j) {
        float x[N];
        load<N>(values + entry.from + i64(i) * entry.ld_from + j, x);
#pragma unroll
        for (int e = 0; e < N; ++e) x[e] *= entry.scale;
        store<N>(to + i64(i) * entry.ld_to + j, x);
    });
}

// Whether both sides can be accessed four elements at a time.
template <class T>
__device__ __forceinline__ bool in_fours(const float* values, const Entry& entry, const T* to) {
    return entry.cols % 4 == 0 && entry.ld_from % 4 == 0 && entry.ld_to % 4 == 0 && aligned<4>(values + entry.from) &&
           aligned<4>(to);
}

template <class T>
__device__ __forceinline__ void pack_entry(const float* values, const Entry& entry) {
    T* to = reinterpret_cast<T*>(entry.to);
    in_fours(values, entry, to) ? pack_matrix<4>(values, entry, to) : pack_matrix<1>(values, entry, to);
}

// to[i, j] = scale·values[i, j] of each entry, a matrix of fewer than 2³² numbers. Grid (entries, 32).
extern "C" __global__ void __launch_bounds__(BLOCK) pack(const float* values, const Entry* table) {
    const Entry entry = table[blockIdx.x];
    entry.kind == 0 ? pack_entry<float>(values, entry) : pack_entry<bf16>(values, entry);
}
KERNEL_EXPORT(pack)

template <int N>
__device__ __forceinline__ void unpack_matrix(const Entry& entry, const float* to, float* values) {
    each_group<N>(entry.rows, entry.cols, [&](int i, int j) {
        float x[N];
        load<N>(to + i64(i) * entry.ld_to + j, x);
#pragma unroll
        for (int e = 0; e < N; ++e) x[e] *= entry.scale;
        store<N>(values + entry.from + i64(i) * entry.ld_from + j, x);
    });
}

// values[i, j] = scale·to[i, j], f32: gradients back into the flat buffer. Grid (entries, 32).
extern "C" __global__ void __launch_bounds__(BLOCK) unpack(const Entry* table, float* values) {
    const Entry entry = table[blockIdx.x];
    const float* to = reinterpret_cast<const float*>(entry.to);
    in_fours(values, entry, to) ? unpack_matrix<4>(entry, to, values) : unpack_matrix<1>(entry, to, values);
}
KERNEL_EXPORT(unpack)

// ---- Dropout: the factors that the CPU engine draws ----

constexpr u64 GOLDEN = 0x9E3779B97F4A7C15ull;

// SplitMix64's mixing of a stream's key and (counter + 1)·GOLDEN.
__device__ __forceinline__ u64 mixed(u64 z) {
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ z >> 27) * 0x94D049BB133111EBull;
    return z ^ z >> 31;
}

// Factors of features i..i+N in the row of this block: 0 with the probability, else 1/(1 − probability).
template <int N>
__device__ __forceinline__ void factors(u64 key, float probability, int i, float (&x)[N]) {
    const u64 row_key = mixed(key + ((u64(blockIdx.x) ^ 0xA5A50F0FC3C33C3Cull) + 1) * GOLDEN);
    const float keep = 1.0f / (1.0f - probability);
    const u64 first = row_key + u64(i + 1) * GOLDEN;
#pragma unroll
    for (int e = 0; e < N; ++e) {
        const float uniform = float(u32(mixed(first + e * GOLDEN) >> 40)) * (1.0f / 16777216.0f);
        x[e] = uniform < probability ? 0.0f : keep;
    }
}

template <int N, class T>
__device__ __forceinline__ void dropout_row(const T* x, T* out, int cols, u64 key, float probability) {
    for (int i = N * threadIdx.x; i < cols; i += N * BLOCK) {
        float from[N], factor[N];
        load<N>(x + i, from);
        factors<N>(key, probability, i, factor);
#pragma unroll
        for (int e = 0; e < N; ++e) from[e] *= factor[e];
        store<N>(out + i, from);
    }
}

// out [rows, ldo] = x [rows, ldx]·factor, zeros in the tail. `key`: of the stream of step and module. Grid (rows).
#define DROPOUT(NAME, T)                                                                                             \
    extern "C" __global__ void __launch_bounds__(BLOCK)                                                              \
        NAME(const T* x, int ldx, T* out, int ldo, int cols, u64 key, float probability) {                           \
        const size_t r = blockIdx.x;                                                                                 \
        const bool fast = cols % 8 == 0 && ldx % 8 == 0 && ldo % 8 == 0 && aligned<8>(x) && aligned<8>(out);         \
        fast ? dropout_row<8>(x + r * ldx, out + r * ldo, cols, key, probability)                                    \
             : dropout_row<1>(x + r * ldx, out + r * ldo, cols, key, probability);                                   \
        zero_tail(out + r * ldo, cols, ldo);                                                                         \
    }                                                                                                                \
    KERNEL_EXPORT(NAME)
DROPOUT(dropout_bf16, bf16)
DROPOUT(dropout_f32, float)

template <int N, class T>
__device__ __forceinline__ void dropout_add_row(const T* t, T* dx, int cols, u64 key, float probability) {
    for (int i = N * threadIdx.x; i < cols; i += N * BLOCK) {
        float from[N], sum[N], factor[N];
        load<N>(t + i, from);
        load<N>(dx + i, sum);
        factors<N>(key, probability, i, factor);
#pragma unroll
        for (int e = 0; e < N; ++e) sum[e] += from[e] * factor[e];
        store<N>(dx + i, sum);
    }
}

// dx [rows, lddx] += t [rows, ldt]·factor: the gradient through dropout. Grid (rows).
#define DROPOUT_ADD(NAME, T)                                                                                         \
    extern "C" __global__ void __launch_bounds__(BLOCK)                                                              \
        NAME(const T* t, int ldt, T* dx, int lddx, int cols, u64 key, float probability) {                           \
        const size_t r = blockIdx.x;                                                                                 \
        const bool fast = cols % 8 == 0 && ldt % 8 == 0 && lddx % 8 == 0 && aligned<8>(t) && aligned<8>(dx);         \
        fast ? dropout_add_row<8>(t + r * ldt, dx + r * lddx, cols, key, probability)                                \
             : dropout_add_row<1>(t + r * ldt, dx + r * lddx, cols, key, probability);                               \
    }                                                                                                                \
    KERNEL_EXPORT(NAME)
DROPOUT_ADD(dropout_add_bf16, bf16)
DROPOUT_ADD(dropout_add_f32, float)

// out[i, j] = Σ parts[p][i, j] over p in order; parts [count, rows, columns] f32, out [rows, ldo]. Grid (⌈rows·columns/256⌉).
// Behind a narrow product with a long sum that is cut into parts.
#define SUM_PARTS(NAME, T)                                                                                           \
    extern "C" __global__ void __launch_bounds__(256)                                                                \
        NAME(const float* parts, int count, int rows, int columns, T* out, int ldo) {                                \
        const size_t i = size_t(blockIdx.x) * 256 + threadIdx.x, all = size_t(rows) * columns;                       \
        if (i >= all) return;                                                                                        \
        float sum = 0.0f;                                                                                            \
        for (int p = 0; p < count; ++p) sum += parts[p * all + i];                                                   \
        out[i / columns * ldo + i % columns] = from_float<T>(sum);                                                   \
    }                                                                                                                \
    KERNEL_EXPORT(NAME)
SUM_PARTS(sum_parts_bf16, bf16)
SUM_PARTS(sum_parts_f32, float)
