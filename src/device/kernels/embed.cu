// Weights out of their storage: rows of the embedding, and matrices that products read. Quantised ones are ggml's
// blocks, which fill whole rows, with ggml's arithmetic operation for operation (as src/weights/blocks.rs); NF4 is
// bitsandbytes'. Storage begins at a multiple of 16 bytes, or whole rows behind one.
#include "common.cuh"
#include "rows.cuh"

enum Kind {
    F32 = 0,
    BF16 = 1,
    F16 = 2,
    Q4_0 = 16,
    Q4_1 = 17,
    Q5_0 = 18,
    Q5_1 = 19,
    Q8_0 = 20,
    Q4_K = 21,
    Q5_K = 22,
    Q6_K = 23,
    NF4 = 24,
};

// Numbers and bytes of a block.
__device__ constexpr int numbers(int kind) { return kind < Q4_0 ? 1 : kind < Q4_K ? 32 : kind < NF4 ? 256 : 64; }
__device__ constexpr int bytes(int kind) {
    return kind == F32 ? 4 : kind < Q4_0 ? 2 : kind == Q4_0 ? 18 : kind == Q4_1 ? 20 : kind == Q5_0 ? 22
         : kind == Q5_1 ? 24 : kind == Q8_0 ? 34 : kind == Q4_K ? 144 : kind == Q5_K ? 176 : kind == Q6_K ? 210 : 36;
}
__device__ __forceinline__ const u8* row_of(const void* table, int kind, size_t row, int cols) {
    return static_cast<const u8*>(table) + row * (size_t(cols / numbers(kind)) * bytes(kind));
}

// Eight bytes.
struct Eight {
    u32 low, high;
    __device__ u32 at(int i) const { return (i < 4 ? low >> 8 * i : high >> 8 * (i - 4)) & 255; }
};
// At an address that is a multiple of 2, 4 or 8.
template <int MULTIPLE>
__device__ __forceinline__ Eight eight(const u8* p) {
    if constexpr (MULTIPLE == 8) {
        const uint2 words = *reinterpret_cast<const uint2*>(p);
        return {words.x, words.y};
    } else if constexpr (MULTIPLE == 4) {
        const u32* words = reinterpret_cast<const u32*>(p);
        return {words[0], words[1]};
    } else {
        const u16* parts = reinterpret_cast<const u16*>(p);
        return {parts[0] | u32(parts[1]) << 16, parts[2] | u32(parts[3]) << 16};
    }
}
__device__ __forceinline__ float half_at(const u8* p) { return half_to_float(*reinterpret_cast<const u16*>(p)); }

// Scale and minimum `index` of eight, 6 bits each, from the 12 bytes behind the two halves of a Q4_K or Q5_K block.
__device__ __forceinline__ void scale_and_minimum(const uint4& head, int index, u32& scale, u32& minimum) {
    const int shift = 8 * (index & 3);
    const u32 a = head.y >> shift & 255, b = head.z >> shift & 255, c = head.w >> shift & 255;
    scale = index < 4 ? a & 63 : (c & 15) | a >> 6 << 4;
    minimum = index < 4 ? b & 63 : c >> 4 | b >> 6 << 4;
}

// The numbers of NF4's codes: quantiles of the normal distribution (as src/weights/nf4.rs).
__device__ const float NF4_NUMBERS[16] = {
    -1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f,
    -0.18477343022823334f, -0.09105003625154495f, 0.0f, 0.07958029955625534f, 0.16093020141124725f,
    0.24611230194568634f, 0.33791524171829224f, 0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f};

// x = q·d
__device__ __forceinline__ void scaled(const int (&q)[8], float d, float (&x)[8]) {
#pragma unroll
    for (int e = 0; e < 8; ++e) x[e] = float(q[e]) * d;
}
// x = q·d + m, not contracted
__device__ __forceinline__ void scaled(const int (&q)[8], float d, float m, float (&x)[8]) {
#pragma unroll
    for (int e = 0; e < 8; ++e) x[e] = __fadd_rn(__fmul_rn(float(q[e]), d), m);
}

// Numbers i..i+8 of a row, i a multiple of 8.
template <int KIND>
__device__ __forceinline__ void decode(const u8* row, int i, float (&x)[8]) {
    const u8* block = row + size_t(i / numbers(KIND)) * bytes(KIND);
    const int unit = i % 32 / 8;   // of a chunk of 32
    int q[8];
    if constexpr (KIND == F32) {
        load8(reinterpret_cast<const float*>(block), x);
    } else if constexpr (KIND == BF16) {
        load8(reinterpret_cast<const bf16*>(block), x);
    } else if constexpr (KIND == F16) {
        const uint4 words = *reinterpret_cast<const uint4*>(block);
        const u32 pairs[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
        for (int e = 0; e < 8; ++e) x[e] = half_to_float(u16(pairs[e / 2] >> 16 * (e % 2)));
    } else if constexpr (KIND == Q8_0) {
        const Eight codes = eight<2>(block + 2 + 8 * unit);
#pragma unroll
        for (int e = 0; e < 8; ++e) q[e] = int(codes.at(e) << 24) >> 24;
        scaled(q, half_at(block), x);
    } else if constexpr (KIND < Q8_0) {
        // Low nibbles are numbers 0..16, high ones 16..32; with five bits the fifths are a word.
        constexpr bool minimum = KIND == Q4_1 || KIND == Q5_1, five = KIND == Q5_0 || KIND == Q5_1;
        constexpr int head = minimum ? 4 : 2, multiple = minimum ? 4 : 2;
        const Eight codes = eight<multiple>(block + head + (five ? 4 : 0) + 8 * (unit & 1));
        u32 fifths = 0;
        if constexpr (five) {
            const u16* parts = reinterpret_cast<const u16*>(block + head);
            fifths = (parts[0] | u32(parts[1]) << 16) >> 8 * unit;
        }
        constexpr int middle = minimum ? 0 : five ? 16 : 8;
#pragma unroll
        for (int e = 0; e < 8; ++e)
            q[e] = int((codes.at(e) >> 4 * (unit >> 1) & 15) | (five ? (fifths >> e & 1) << 4 : 0)) - middle;
        if constexpr (minimum) scaled(q, half_at(block), half_at(block + 2), x);
        else scaled(q, half_at(block), x);
    } else if constexpr (KIND == Q4_K || KIND == Q5_K) {
        // Chunks 2k and 2k + 1 of 32 are the low and high nibbles of bytes 32k..; fifth bits are bit `chunk` of 32
        // bytes.
        const int chunk = i % 256 / 32;
        const uint4 head = *reinterpret_cast<const uint4*>(block);
        u32 scale, minimum;
        scale_and_minimum(head, chunk, scale, minimum);
        const float d = half_to_float(u16(head.x)) * float(scale);
        const float m = half_to_float(u16(head.x >> 16)) * float(minimum);
        const Eight codes = eight<8>(block + (KIND == Q4_K ? 16 : 48) + chunk / 2 * 32 + 8 * unit);
        Eight fifths = {0, 0};
        if constexpr (KIND == Q5_K) fifths = eight<8>(block + 16 + 8 * unit);
#pragma unroll
        for (int e = 0; e < 8; ++e)
            q[e] = int((codes.at(e) >> 4 * (chunk & 1) & 15) | (KIND == Q5_K ? (fifths.at(e) >> chunk & 1) << 4 : 0));
        scaled(q, d, -m, x);
    } else if constexpr (KIND == NF4) {
        // The magnitude, then two codes a byte, the first in the high bits.
        const u32 codes = *reinterpret_cast<const u32*>(block + 4 + i % 64 / 2);
        const float magnitude = *reinterpret_cast<const float*>(block);
#pragma unroll
        for (int e = 0; e < 8; ++e) x[e] = __ldg(NF4_NUMBERS + (codes >> (8 * (e / 2) + 4 * (1 - e % 2)) & 15)) * magnitude;
    } else {
        // Q6_K: two halves of 128 numbers, four chunks each: 64 bytes of low nibbles, 32 of high pairs, 8 scales for
        // 16.
        const int half = i % 256 / 128, quarter = i % 128 / 32;
        const Eight low = eight<2>(block + half * 64 + quarter % 2 * 32 + 8 * unit);
        const Eight high = eight<2>(block + 128 + half * 32 + 8 * unit);
        const int scale = int(u32(block[192 + i % 256 / 16]) << 24) >> 24;
#pragma unroll
        for (int e = 0; e < 8; ++e)
            q[e] = int((low.at(e) >> quarter / 2 * 4 & 15) | (high.at(e) >> quarter * 2 & 3) << 4) - 32;
        scaled(q, half_at(block + 208) * float(scale), x);
    }
}

// One number of a row that is not quantised.
__device__ __forceinline__ float number(const u8* row, int kind, int i) {
    if (kind == F32) return reinterpret_cast<const float*>(row)[i];
    if (kind == BF16) return to_float(reinterpret_cast<const bf16*>(row)[i]);
    return half_to_float(reinterpret_cast<const u16*>(row)[i]);
}

// Calls f.at<kind>().
template <class F>
__device__ __forceinline__ void with_kind(int kind, const F& f) {
    switch (kind) {
        case F32: return f.template at<F32>();
        case BF16: return f.template at<BF16>();
        case F16: return f.template at<F16>();
        case Q4_0: return f.template at<Q4_0>();
        case Q4_1: return f.template at<Q4_1>();
        case Q5_0: return f.template at<Q5_0>();
        case Q5_1: return f.template at<Q5_1>();
        case Q8_0: return f.template at<Q8_0>();
        case Q4_K: return f.template at<Q4_K>();
        case Q5_K: return f.template at<Q5_K>();
        case Q6_K: return f.template at<Q6_K>();
        default: return f.template at<NF4>();
    }
}

// x[i] = scale·row[i], or x[i] += row[i] if `adds`.
struct EmbedRow {
    const u8* row;
    float scale;
    bool adds;
    int hidden;
    float* x;

    template <int KIND>
    __device__ __forceinline__ void at() const {
#pragma unroll 1
        for (int i = 8 * threadIdx.x; i < hidden; i += 8 * blockDim.x) {
            float from[8], to[8] = {};
            decode<KIND>(row, i, from);
            if (adds) load8(x + i, to);
#pragma unroll
            for (int e = 0; e < 8; ++e) to[e] = adds ? __fadd_rn(to[e], from[e]) : __fmul_rn(from[e], scale);
            store8(x + i, to);
        }
    }
    __device__ __forceinline__ void of(int kind) const {
        if (hidden % 8 == 0) return with_kind(kind, *this);
        for (int i = threadIdx.x; i < hidden; i += blockDim.x)
            x[i] = adds ? __fadd_rn(x[i], number(row, kind, i)) : __fmul_rn(number(row, kind, i), scale);
    }
};

// x [rows, hidden] = scale·table[tokens[i]] (+ learned[positions[i] + offset]). Kinds: see above; hidden is a multiple
// of a block. x begins at a multiple of 16 bytes. Grid (rows), blocks of 256 threads. Where a pass begins.
extern "C" __global__ void __launch_bounds__(256)
    embed(const u32* tokens, const u32* positions, const void* table, int kind, float scale, const void* learned,
          int learned_kind, int offset, int hidden, float* x) {
    const size_t r = blockIdx.x;
    float* to = x + r * hidden;
#pragma unroll 1
    for (int second = 0; second < (learned ? 2 : 1); ++second) {
        const int of = second ? learned_kind : kind;
        const size_t row = second ? size_t(i64(positions[r]) + offset) : tokens[r];
        EmbedRow{row_of(second ? learned : table, of, row, hidden), scale, second != 0, hidden, to}.of(of);
    }
}
KERNEL_EXPORT(embed)

// Calls f(i) for every eighth column of a row, by all blocks of a grid's row. Many threads hide the latency, not
// unrolling.
template <class F>
__device__ __forceinline__ void each_eighth(int cols, F f) {
    const int step = int(8 * blockDim.x * gridDim.x);
#pragma unroll 1
    for (int i = int(8 * (blockIdx.x * blockDim.x + threadIdx.x)); i < cols; i += step) f(i);
}

template <class T>
struct DequantiseRow {
    const u8* row;
    int cols;
    bool fast;
    T* out;

    template <int KIND>
    __device__ __forceinline__ void at() const {
        each_eighth(cols, [&](int i) {
            float x[8];
            decode<KIND>(row, i, x);
            if (fast) return store8(out + i, x);
#pragma unroll
            for (int e = 0; e < 8; ++e) out[i + e] = from_float<T>(x[e]);
        });
    }
    __device__ __forceinline__ void of(int kind) const {
        if (cols % 8 == 0) return with_kind(kind, *this);
        each_eighth(cols, [&](int i) {
            for (int e = i; e < min(i + 8, cols); ++e) out[e] = from_float<T>(number(row, kind, e));
        });
    }
};

// out [rows, ldo] = the numbers of `blocks` [rows, cols], zeros in the tail. Grid (any number, rows): one block along
// the row for each 4,096 columns, of 256 threads, is best. Before each product with a quantised weight.
#define DEQUANTISE(NAME, T)                                                                                          \
    extern "C" __global__ void __launch_bounds__(256, 6)                                                             \
        NAME(const void* blocks, int kind, int cols, T* out, int ldo) {                                              \
        const size_t r = blockIdx.y;                                                                                 \
        const bool fast = ldo % 8 == 0 && aligned<8>(out);                                                           \
        DequantiseRow<T>{row_of(blocks, kind, r, cols), cols, fast, out + r * ldo}.of(kind);                         \
        zero_tail_by_blocks(out + r * ldo, cols, ldo);                                                               \
    }                                                                                                                \
    KERNEL_EXPORT(NAME)
DEQUANTISE(dequantise_bf16, bf16)
DEQUANTISE(dequantise_f32, float)
