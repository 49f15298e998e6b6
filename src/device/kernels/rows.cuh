// What the kernels that work by rows share: accesses of several elements, tails, sums over a block. Included after
// common.cuh.
#pragma once

// Whether N elements at `p`, and at any multiple of N behind it, are one access (eight floats: two). Null counts.
template <int N, class T>
__device__ __forceinline__ bool aligned(const T* p) {
    return reinterpret_cast<size_t>(p) % (N * sizeof(T) < 16 ? N * sizeof(T) : 16) == 0;
}

// N elements at `p` as f32: 1, 4 or 8, aligned.
template <int N, class T>
__device__ __forceinline__ void load(const T* p, float (&x)[N]) {
    if constexpr (N == 8) {
        load8(p, x);
    } else if constexpr (N == 4 && sizeof(T) == 4) {
        load4(p, x);
    } else if constexpr (N == 4) {
        const uint2 words = *reinterpret_cast<const uint2*>(p);
        x[0] = low_bf16(words.x), x[1] = high_bf16(words.x), x[2] = low_bf16(words.y), x[3] = high_bf16(words.y);
    } else {
        x[0] = to_float(p[0]);
    }
}

// Writes N elements at `p`, rounded to its type.
template <int N, class T>
__device__ __forceinline__ void store(T* p, const float (&x)[N]) {
    if constexpr (N == 8) {
        store8(p, x);
    } else if constexpr (N == 4 && sizeof(T) == 4) {
        store4(p, x);
    } else if constexpr (N == 4) {
        *reinterpret_cast<uint2*>(p) = make_uint2(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]));
    } else {
        p[0] = from_float<T>(x[0]);
    }
}

// Zeros in columns [width, pitch) of a row, by all blocks of a grid's row.
template <class T>
__device__ __forceinline__ void zero_tail_by_blocks(T* row, int width, int pitch) {
    const int first = width + int(blockIdx.x * blockDim.x + threadIdx.x);
    for (int i = first; i < pitch; i += int(gridDim.x * blockDim.x)) row[i] = from_float<T>(0.0f);
}

// N sums over a block of 256 threads, in every thread, in a fixed order. One barrier: each SLOT has shared
// memory of its own, and one that is used again needs a barrier between.
template <int SLOT, int N>
__device__ __forceinline__ void row_sums(float (&x)[N]) {
    constexpr int WARPS = 8;
    __shared__ float partial[N][WARPS];
#pragma unroll
    for (int n = 0; n < N; ++n) {
        x[n] = warp_sum(x[n]);
        if (threadIdx.x % 32 == 0) partial[n][threadIdx.x / 32] = x[n];
    }
    __syncthreads();
#pragma unroll
    for (int n = 0; n < N; ++n) {
        x[n] = partial[n][0];
#pragma unroll
        for (int warp = 1; warp < WARPS; ++warp) x[n] += partial[n][warp];
    }
}

template <int SLOT>
__device__ __forceinline__ float row_sum(float x) {
    float sums[1] = {x};
    row_sums<SLOT>(sums);
    return sums[0];
}
