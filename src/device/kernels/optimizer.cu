// The optimizers over flat f32 buffers, bit for bit as src/train/optimizer has them: no multiplication and addition is
// contracted. Gradients are multiplied by `clip` first. Grid (⌈n / 1024⌉), blocks of 256 threads.
#include "common.cuh"
#include "rows.cuh"

constexpr int BLOCK = 256;
constexpr int GROUP = 4;

__device__ __forceinline__ float mul(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ float add(float a, float b) { return __fadd_rn(a, b); }
__device__ __forceinline__ float sub(float a, float b) { return __fsub_rn(a, b); }
__device__ __forceinline__ float over(float a, float b) { return __fdiv_rn(a, b); }

// Four numbers of a buffer from `i`, as many as there are.
__device__ __forceinline__ void read(const float* p, i64 i, i64 n, float (&x)[GROUP]) {
    if (i + GROUP <= n && aligned<GROUP>(p)) {
        load4(p + i, x);
    } else {
#pragma unroll
        for (int e = 0; e < GROUP; ++e) x[e] = i + e < n ? p[i + e] : 0.0f;
    }
}
__device__ __forceinline__ void write(float* p, i64 i, i64 n, const float (&x)[GROUP]) {
    if (i + GROUP <= n && aligned<GROUP>(p)) {
        store4(p + i, x);
    } else {
#pragma unroll
        for (int e = 0; e < GROUP; ++e)
            if (i + e < n) p[i + e] = x[e];
    }
}

// torch.lerp, which changes its form at 0.5.
__device__ __forceinline__ float lerp(float start, float end, float weight) {
    const float difference = sub(end, start);
    return weight < 0.5f ? add(start, mul(weight, difference)) : sub(end, mul(difference, sub(1.0f, weight)));
}

// p ← p·decay; m ← lerp(m, g, 1 − β₁); v ← v·β₂ + (1 − β₂)·g²; p ← p − step_size·m / (√v / bias_correction2_sqrt + ε).
extern "C" __global__ void __launch_bounds__(BLOCK)
    adamw(float* p, const float* g, float* m, float* v, i64 n, float clip, float decay, float one_minus_beta1,
          float beta2, float one_minus_beta2, float epsilon, float minus_step_size, float bias_correction2_sqrt) {
    const i64 i = (i64(blockIdx.x) * BLOCK + threadIdx.x) * GROUP;
    if (i >= n) return;
    float parameter[GROUP], gradient[GROUP], first[GROUP], second[GROUP];
    read(p, i, n, parameter), read(g, i, n, gradient), read(m, i, n, first), read(v, i, n, second);
#pragma unroll
    for (int e = 0; e < GROUP; ++e) {
        const float d = mul(gradient[e], clip);
        first[e] = lerp(first[e], d, one_minus_beta1);
        second[e] = add(mul(second[e], beta2), mul(mul(one_minus_beta2, d), d));
        const float denominator = add(over(__fsqrt_rn(second[e]), bias_correction2_sqrt), epsilon);
        parameter[e] = add(mul(parameter[e], decay), over(mul(minus_step_size, first[e]), denominator));
    }
    write(p, i, n, parameter), write(m, i, n, first), write(v, i, n, second);
}
KERNEL_EXPORT(adamw)

// g ← g + weight_decay·p; v ← v·α + (1 − α)·g²; p ← p − lr·g / (√v + ε), with α = 0.99 and ε = 1e-8.
extern "C" __global__ void __launch_bounds__(BLOCK)
    rmsprop(float* p, const float* g, float* v, i64 n, float clip, float weight_decay, float minus_lr) {
    const i64 i = (i64(blockIdx.x) * BLOCK + threadIdx.x) * GROUP;
    if (i >= n) return;
    const float alpha = 0.99f, one_minus_alpha = float(1.0 - 0.99), epsilon = 1e-8f;
    float parameter[GROUP], gradient[GROUP], second[GROUP];
    read(p, i, n, parameter), read(g, i, n, gradient), read(v, i, n, second);
#pragma unroll
    for (int e = 0; e < GROUP; ++e) {
        const float d = add(mul(gradient[e], clip), mul(weight_decay, parameter[e]));
        second[e] = add(mul(second[e], alpha), mul(mul(one_minus_alpha, d), d));
        parameter[e] = add(parameter[e], over(mul(minus_lr, d), add(__fsqrt_rn(second[e]), epsilon)));
    }
    write(p, i, n, parameter), write(v, i, n, second);
}
KERNEL_EXPORT(rmsprop)

// p ← p − lr·(g + weight_decay·p).
extern "C" __global__ void __launch_bounds__(BLOCK)
    sgd(float* p, const float* g, i64 n, float clip, float weight_decay, float minus_lr) {
    const i64 i = (i64(blockIdx.x) * BLOCK + threadIdx.x) * GROUP;
    if (i >= n) return;
    float parameter[GROUP], gradient[GROUP];
    read(p, i, n, parameter), read(g, i, n, gradient);
#pragma unroll
    for (int e = 0; e < GROUP; ++e) {
        const float d = add(mul(gradient[e], clip), mul(weight_decay, parameter[e]));
        parameter[e] = add(parameter[e], mul(minus_lr, d));
    }
    write(p, i, n, parameter);
}
KERNEL_EXPORT(sgd)

// partial[b] = Σ g² over numbers 16384·b.. of g [n], in f64. Grid (⌈n / 16384⌉).
extern "C" __global__ void __launch_bounds__(BLOCK) square_sums(const float* g, i64 n, double* partial) {
    __shared__ double scratch[32];
    const i64 start = i64(blockIdx.x) * 16384 + GROUP * threadIdx.x;
    double sum = 0.0;
#pragma unroll 4
    for (int k = 0; k < 16384; k += GROUP * BLOCK) {
        float x[GROUP];
        read(g, start + k, n, x);
#pragma unroll
        for (int e = 0; e < GROUP; ++e) sum = __dadd_rn(sum, __dmul_rn(x[e], x[e]));
    }
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}
KERNEL_EXPORT(square_sums)
