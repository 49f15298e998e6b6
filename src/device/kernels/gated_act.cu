// h = act(gate)·up, or act(x) where nothing gates, and its gradient. y holds gate|up, or x.
// Activations: 0 silu, 1 gelu (error function), 2 gelu's tanh approximation, 3 relu, 4 relu².
// Grid (blocks along the row, rows), blocks of 256 threads; any number of blocks along the row does, one for each 2,048
// columns is best.
#include "common.cuh"
#include "rows.cuh"

constexpr int BLOCK = 256;
constexpr float SQRT_2_OVER_PI = 0.7978846f;

// act(x) and act'(x).
template <int N>
__device__ __forceinline__ void activate(int act, const float (&x)[N], float (&value)[N], float (&slope)[N]) {
#define EACH(...)                                   \
    _Pragma("unroll") for (int e = 0; e < N; ++e) { \
        __VA_ARGS__                                 \
    }                                               \
    break
    switch (act) {
        case 0:
            EACH(const float sigmoid = 1.0f / (1.0f + expf(-x[e])); value[e] = x[e] * sigmoid;
                 slope[e] = sigmoid * (x[e] * (1.0f - sigmoid) + 1.0f););
        case 1:
            EACH(const float below = 0.5f * (1.0f + erff(x[e] * 0.70710678f));
                 const float density = 0.3989423f * expf(-0.5f * x[e] * x[e]); value[e] = x[e] * below;
                 slope[e] = x[e] * density + below;);
        case 2:
            EACH(const float tanh = tanhf(SQRT_2_OVER_PI * x[e] * (0.044715f * x[e] * x[e] + 1.0f));
                 const float inner = SQRT_2_OVER_PI * (3.0f * 0.044715f * x[e] * x[e] + 1.0f);
                 value[e] = 0.5f * x[e] * (1.0f + tanh);
                 slope[e] = 0.5f * (1.0f + tanh) + 0.5f * x[e] * (1.0f - tanh * tanh) * inner;);
        case 3: EACH(value[e] = x[e] < 0.0f ? 0.0f : x[e]; slope[e] = x[e] > 0.0f ? 1.0f : 0.0f;);
        default:
            EACH(const float positive = x[e] < 0.0f ? 0.0f : x[e]; value[e] = positive * positive;
                 slope[e] = 2.0f * positive;);
    }
}
#undef EACH

// Columns i..i+N of y with their bias.
template <int N, class T>
__device__ __forceinline__ void projected(const T* y, const float* bias, int i, float (&x)[N]) {
    load<N>(y + i, x);
    if (!bias) return;
    float b[N];
    load<N>(bias + i, b);
#pragma unroll
    for (int e = 0; e < N; ++e) x[e] += b[e];
}

template <int N, class T>
__device__ __forceinline__ void act_forward_row(const T* y, const float* bias, int act, bool gated, int width, T* h) {
    for (int i = N * (blockIdx.x * BLOCK + threadIdx.x); i < width; i += N * BLOCK * gridDim.x) {
        float x[N], up[N], value[N], slope[N];
        projected<N>(y, bias, i, x);
        if (gated) projected<N>(y, bias, width + i, up);
        activate(act, x, value, slope);
#pragma unroll
        for (int e = 0; e < N; ++e) value[e] = gated ? value[e] * up[e] : value[e];
        store<N>(h + i, value);
    }
}

// h [rows, ldh] = act(y[:, :width])·y[:, width:2·width], or act(y[:, :width]), of y [rows, ldy] + bias; zeros in h's
// tail.
#define ACT_FORWARD(NAME, T)                                                                                         \
    extern "C" __global__ void __launch_bounds__(BLOCK)                                                              \
        NAME(const T* y, int ldy, const float* bias, int act, int gated, int width, T* h, int ldh) {                 \
        const size_t r = blockIdx.y;                                                                                 \
        const bool fast = width % 8 == 0 && ldy % 8 == 0 && ldh % 8 == 0 && aligned<8>(y) &&                         \
                          aligned<8>(bias) && aligned<8>(h);                                                         \
        fast ? act_forward_row<8>(y + r * ldy, bias, act, gated, width, h + r * ldh)                                 \
             : act_forward_row<1>(y + r * ldy, bias, act, gated, width, h + r * ldh);                                \
        zero_tail_by_blocks(h + r * ldh, width, ldh);                                                                \
    }                                                                                                                \
    KERNEL_EXPORT(NAME)
ACT_FORWARD(act_forward_bf16, bf16)
ACT_FORWARD(act_forward_f32, float)

// d gate = dh·up·act'(gate), d up = dh·act(gate); h = act(gate)·up again if it is wanted.
template <int N, class T>
__device__ __forceinline__ void act_backward_row(const T* dh, const T* y, const float* bias, int act, bool gated,
                                                 int width, T* dy, T* h) {
    for (int i = N * (blockIdx.x * BLOCK + threadIdx.x); i < width; i += N * BLOCK * gridDim.x) {
        float d[N], x[N], up[N], value[N], slope[N];
        load<N>(dh + i, d);
        projected<N>(y, bias, i, x);
        if (gated) projected<N>(y, bias, width + i, up);
        activate(act, x, value, slope);
#pragma unroll
        for (int e = 0; e < N; ++e) slope[e] *= gated ? d[e] * up[e] : d[e];
        store<N>(dy + i, slope);
        if (gated) {
#pragma unroll
            for (int e = 0; e < N; ++e) d[e] *= value[e], value[e] *= up[e];
            store<N>(dy + width + i, d);
        }
        if (h) store<N>(h + i, value);
    }
}

// The gradient of y [rows, lddy], with zeros in its tail, for dh [rows, lddh]; and h [rows, ldh] as act_forward gives
// it.
#define ACT_BACKWARD(NAME, T)                                                                                        \
    extern "C" __global__ void __launch_bounds__(BLOCK)                                                              \
        NAME(const T* dh, int lddh, const T* y, int ldy, const float* bias, int act, int gated, int width, T* dy,    \
             int lddy, T* h, int ldh) {                                                                              \
        const size_t r = blockIdx.y;                                                                                 \
        const bool fast = width % 8 == 0 && lddh % 8 == 0 && ldy % 8 == 0 && lddy % 8 == 0 && ldh % 8 == 0           \
                          && aligned<8>(dh) && aligned<8>(y) && aligned<8>(bias) && aligned<8>(dy) && aligned<8>(h); \
        T* to_h = h ? h + r * ldh : nullptr;                                                                         \
        fast ? act_backward_row<8>(dh + r * lddh, y + r * ldy, bias, act, gated, width, dy + r * lddy, to_h)         \
             : act_backward_row<1>(dh + r * lddh, y + r * ldy, bias, act, gated, width, dy + r * lddy, to_h);        \
        zero_tail_by_blocks(dy + r * lddy, gated ? 2 * width : width, lddy);                                         \
        if (h) zero_tail_by_blocks(to_h, width, ldh);                                                                \
    }                                                                                                                \
    KERNEL_EXPORT(NAME)
ACT_BACKWARD(act_backward_bf16, bf16)
ACT_BACKWARD(act_backward_f32, float)
