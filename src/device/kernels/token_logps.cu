// Log-probabilities of target tokens from a row's logits, and what the head's weights are summed with for their
// gradient. With s = scale·(z + bias): l = c·tanh(s/c) under a soft-cap c, else s.
#include "common.cuh"
#include "rows.cuh"

constexpr int GROUP = 4;
constexpr int GROUPS = 2;   // read at once by each thread
constexpr float LOWEST = -3.4028235e38f;

struct Logits {
    const float *row, *bias;
    float scale, softcap;
    int vocab;
    bool fast;   // whole groups are aligned
};

// z of columns i..i+4.
__device__ __forceinline__ void read(const Logits& z, int i, float (&l)[GROUP]) {
    if (z.fast && i + GROUP <= z.vocab) {
        load4(z.row + i, l);
    } else {
#pragma unroll
        for (int e = 0; e < GROUP; ++e) l[e] = i + e < z.vocab ? z.row[i + e] : 0.0f;
    }
}
// l of them; -infinity behind the vocabulary.
__device__ __forceinline__ void shape(const Logits& z, int i, float (&l)[GROUP]) {
    if (z.bias) {
#pragma unroll
        for (int e = 0; e < GROUP; ++e) l[e] += i + e < z.vocab ? z.bias[i + e] : 0.0f;
    }
#pragma unroll
    for (int e = 0; e < GROUP; ++e) l[e] *= z.scale;
    if (z.softcap > 0.0f) {
#pragma unroll
        for (int e = 0; e < GROUP; ++e) l[e] = z.softcap * tanhf(l[e] / z.softcap);
    }
#pragma unroll
    for (int e = 0; e < GROUP; ++e) l[e] = i + e < z.vocab ? l[e] : -infinity();
}

// Columns i..i+4 of the result.
template <class T>
__device__ __forceinline__ void write(const Logits& z, int i, const float (&l)[GROUP], T* row) {
    if (z.fast && i + GROUP <= z.vocab) return store<GROUP>(row + i, l);
#pragma unroll
    for (int e = 0; e < GROUP; ++e)
        if (i + e < z.vocab) row[i + e] = from_float<T>(l[e]);
}

// Σ e^l = sum·e^most. `most` is finite until a logit is infinite, so that nothing becomes e^(∞ − ∞) before.
struct Running {
    float most, sum;
};

// Of two parts; the same bits whichever comes first.
__device__ __forceinline__ Running merged(Running a, Running b) {
    const float most = fmaxf(a.most, b.most);
    return {most, __fadd_rn(__fmul_rn(a.sum, expf(a.most - most)), __fmul_rn(b.sum, expf(b.most - most)))};
}

// Takes in the logits of one step of this thread.
__device__ __forceinline__ void take(Running& r, const float (&l)[GROUPS][GROUP]) {
    float most = r.most, sum = 0.0f;
#pragma unroll
    for (int g = 0; g < GROUPS; ++g)
#pragma unroll
        for (int e = 0; e < GROUP; ++e) most = fmaxf(most, l[g][e]);
#pragma unroll
    for (int g = 0; g < GROUPS; ++g)
#pragma unroll
        for (int e = 0; e < GROUP; ++e) sum += expf(l[g][e] - most);
    r.sum = r.sum * expf(r.most - most) + sum;
    r.most = most;
}

// Over the block, in every thread.
__device__ __forceinline__ Running merged_over_block(Running r) {
    __shared__ float most[32], sum[32];
    const int lane = threadIdx.x % 32, warps = blockDim.x / 32;
#pragma unroll
    for (int step = 16; step > 0; step /= 2)
        r = merged(r, {__shfl_xor_sync(ALL_LANES, r.most, step), __shfl_xor_sync(ALL_LANES, r.sum, step)});
    if (lane == 0) most[threadIdx.x / 32] = r.most, sum[threadIdx.x / 32] = r.sum;
    __syncthreads();
    r = lane < warps ? Running{most[lane], sum[lane]} : Running{LOWEST, 0.0f};
#pragma unroll
    for (int step = 16; step > 0; step /= 2)
        r = merged(r, {__shfl_xor_sync(ALL_LANES, r.most, step), __shfl_xor_sync(ALL_LANES, r.sum, step)});
    return r;
}

// The first pass over the row.
__device__ __forceinline__ Running soft_max(const Logits& z) {
    const int stride = GROUP * blockDim.x;
    Running r = {LOWEST, 0.0f};
#pragma unroll 1
    for (int start = GROUP * threadIdx.x; start < z.vocab; start += GROUPS * stride) {
        float l[GROUPS][GROUP];
#pragma unroll
        for (int g = 0; g < GROUPS; ++g) read(z, start + g * stride, l[g]);
#pragma unroll
        for (int g = 0; g < GROUPS; ++g) shape(z, start + g * stride, l[g]);
        take(r, l);
    }
    return merged_over_block(r);
}

// The second pass, from the end, where the row is still in the cache: scale·(δ − e^(l − most)/sum)·l'.
template <class T>
__device__ __forceinline__ void write_weights(const Logits& z, Running r, int target, T* weights) {
    const int stride = GROUP * blockDim.x;
    const float per = 1.0f / r.sum;
#pragma unroll 1
    for (int start = (z.vocab - 1) / stride * stride + GROUP * threadIdx.x; start >= 0; start -= GROUPS * stride) {
        float l[GROUPS][GROUP];
#pragma unroll
        for (int g = 0; g < GROUPS; ++g)
            if (start - g * stride >= 0) read(z, start - g * stride, l[g]);
#pragma unroll
        for (int g = 0; g < GROUPS; ++g) {
            const int i = start - g * stride;
            if (i < 0) continue;
            shape(z, i, l[g]);
#pragma unroll
            for (int e = 0; e < GROUP; ++e) {
                const float capped = z.softcap > 0.0f ? l[g][e] / z.softcap : 0.0f;
                const float slope = z.scale * (1.0f - capped * capped);
                l[g][e] = slope * ((i + e == target ? 1.0f : 0.0f) - expf(l[g][e] - r.most) * per);
            }
            write(z, i, l[g], weights);
        }
    }
}

// logp = l_target − log Σ e^l of one row.
template <class T>
__device__ __forceinline__ void token_logps_row(const Logits& z, int target, float* logp, T* weights) {
    const Running r = soft_max(z);
    if (threadIdx.x == 0) {
        float l[GROUP] = {z.row[target]};
        shape(z, target, l);
        *logp = (l[0] - r.most) - logf(r.sum);
    }
    if (weights) write_weights(z, r, target, weights);
}

// logits [rows, ldl], bias [vocab], targets [rows] → logps [rows], and, if wanted, weights [rows, ldw] (∂ logp / ∂ z,
// zeros in the tail), by which the head's matrix is multiplied for ∂ logp / ∂ h. Grid (rows), blocks of 1,024 threads.
#define TOKEN_LOGPS(NAME, T)                                                                                         \
    extern "C" __global__ void __launch_bounds__(1024)                                                               \
        NAME(const float* logits, int ldl, const float* bias, float scale, float softcap, const u32* targets,        \
             float* logps, T* weights, int ldw, int vocab) {                                                         \
        const size_t r = blockIdx.x;                                                                                 \
        T* to = weights ? weights + r * ldw : nullptr;                                                               \
        const bool fast = ldl % GROUP == 0 && ldw % GROUP == 0 && aligned<GROUP>(logits) &&                          \
                          aligned<GROUP>(weights);                                                                   \
        const Logits z = {logits + r * ldl, bias, scale, softcap, vocab, fast};                                      \
        token_logps_row(z, int(targets[r]), logps + r, to);                                                          \
        if (weights) zero_tail(to, vocab, ldw);                                                                      \
    }                                                                                                                \
    KERNEL_EXPORT(NAME)
TOKEN_LOGPS(token_logps_bf16, bf16)
TOKEN_LOGPS(token_logps_f32, float)

// z ← l in place, logits [rows, ldl]. Grid (rows), blocks of 256 threads. For sampling.
extern "C" __global__ void __launch_bounds__(256)
    shape_logits(float* logits, int ldl, const float* bias, float scale, float softcap, int vocab) {
    float* row = logits + size_t(blockIdx.x) * ldl;
    const Logits z = {row, bias, scale, softcap, vocab, ldl % GROUP == 0 && aligned<GROUP>(logits)};
#pragma unroll 1
    for (int i = GROUP * threadIdx.x; i < vocab; i += GROUP * 256) {
        float l[GROUP];
        read(z, i, l);
        shape(z, i, l);
        write(z, i, l, row);
    }
}
KERNEL_EXPORT(shape_logits)
