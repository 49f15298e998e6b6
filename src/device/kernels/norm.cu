// Norms of the residual stream, with what stands next to them: the sum with a block's output, and gradients. Kinds: 0
// none, 1 RMS norm y = x·n·g with n = 1/√(mean(x²) + ε), 2 layer norm y = (x − mean)·n·g + b with n = 1/√(var + ε).
// Blocks of 256 threads, one for each row; the row stays in dynamic shared memory, where each thread reads only what it
// wrote.
#include "common.cuh"
#include "rows.cuh"

constexpr int GROUP = 4;
constexpr int BLOCK = 256;
constexpr int STEP = GROUP * BLOCK;
enum Kind { NONE = 0, RMS = 1, LAYER = 2 };

// Calls f(i) for this thread's elements of a row: groups of N = 4, or one by one the same elements in the same order,
// so that sums are the same bits.
template <int N, class F>
__device__ __forceinline__ void each(int width, F f) {
#pragma unroll 1
    for (int i = GROUP * threadIdx.x; i < width; i += STEP) {
        if constexpr (N == GROUP) {
            f(i);
        } else {
#pragma unroll 1
            for (int e = i; e < min(i + GROUP, width); ++e) f(e);
        }
    }
}

// What is read of a row for N elements.
template <int N>
struct Pair {
    float a[N], b[N];
};

// fetch(i, pair), then use(i, pair) for this thread's elements: two groups are fetched before the first is used.
template <int N, class Fetch, class Use>
__device__ __forceinline__ void stream(int width, Fetch fetch, Use use) {
    if constexpr (N == 1) {
        each<1>(width, [&](int i) {
            Pair<1> pair;
            fetch(i, pair);
            use(i, pair);
        });
    } else {
#pragma unroll 1
        for (int i = GROUP * threadIdx.x; i < width; i += 2 * STEP) {
            const bool second = i + STEP < width;
            Pair<N> first_pair, second_pair;
            fetch(i, first_pair);
            if (second) fetch(i + STEP, second_pair);
            use(i, first_pair);
            if (second) use(i + STEP, second_pair);
        }
    }
}

// x += vector[i..i + N], if there is one.
template <int N>
__device__ __forceinline__ void add_vector(const float* vector, int i, float (&x)[N]) {
    if (!vector) return;
    float more[N];
    load<N>(vector + i, more);
#pragma unroll
    for (int e = 0; e < N; ++e) x[e] += more[e];
}

// normalised = (x − mean)·n
struct Moments {
    float mean, n;
};

// Of the row in shared memory.
template <int SLOT, int N>
__device__ __forceinline__ Moments moments(const float* row, int width, int kind, float eps) {
    if (kind == NONE) return {0.0f, 1.0f};
    float mean = 0.0f, squares = 0.0f;
    if (kind == LAYER) {
        each<N>(width, [&](int i) {
            float x[N];
            load<N>(row + i, x);
#pragma unroll
            for (int e = 0; e < N; ++e) mean += x[e];
        });
        mean = row_sum<SLOT>(mean) / width;
    }
    each<N>(width, [&](int i) {
        float x[N];
        load<N>(row + i, x);
#pragma unroll
        for (int e = 0; e < N; ++e) squares += (x[e] - mean) * (x[e] - mean);
    });
    return {mean, 1.0f / sqrtf(row_sum<SLOT + 1>(squares) / width + eps)};
}

// x ← (x − mean)·n·gain + bias
template <int N>
__device__ __forceinline__ void normalise(float (&x)[N], Moments m, const float* gain, const float* bias, int i) {
    float g[N];
    load<N>(gain + i, g);
#pragma unroll
    for (int e = 0; e < N; ++e) x[e] = (x[e] - m.mean) * m.n * g[e];
    add_vector(bias, i, x);
}

template <class T>
struct NormForward {
    const float* x_in;
    const u32* rows;
    const T* y;
    int ldy;
    const float* y_bias, *post_gain, *post_bias;
    int post_kind;
    float post_eps, scale;
    float* x_out;
    const float* gain, *bias;
    int kind;
    float eps;
    T* out;
    int ldo, hidden;

    // Whether all of it can be read in groups.
    __device__ bool grouped() const {
        return hidden % GROUP == 0 && ldy % GROUP == 0 && ldo % GROUP == 0 && aligned<GROUP>(x_in) && aligned<GROUP>(y)
            && aligned<GROUP>(y_bias) && aligned<GROUP>(post_gain) && aligned<GROUP>(post_bias) && aligned<GROUP>(x_out)
            && aligned<GROUP>(gain) && aligned<GROUP>(bias) && aligned<GROUP>(out);
    }
};

// Puts x = x_in + scale·post_norm(y + y_bias) into shared memory.
template <int N, class T>
__device__ __forceinline__ void residual_sum(const NormForward<T>& a, float* row) {
    const size_t from = a.rows ? a.rows[blockIdx.x] : blockIdx.x;
    const float* x_in = a.x_in + from * a.hidden;
    const T* y = a.y + size_t(blockIdx.x) * a.ldy;
    if (!a.y) {
        stream<N>(a.hidden, [&](int i, Pair<N>& p) { load<N>(x_in + i, p.a); },
                  [&](int i, Pair<N>& p) { store<N>(row + i, p.a); });
        return;
    }
    if (a.post_kind == NONE) {
        stream<N>(a.hidden, [&](int i, Pair<N>& p) { load<N>(x_in + i, p.a), load<N>(y + i, p.b); },
                  [&](int i, Pair<N>& p) {
                      add_vector(a.y_bias, i, p.b);
#pragma unroll
                      for (int e = 0; e < N; ++e) p.a[e] += a.scale * p.b[e];
                      store<N>(row + i, p.a);
                  });
        return;
    }
    stream<N>(a.hidden, [&](int i, Pair<N>& p) { load<N>(y + i, p.b); },
              [&](int i, Pair<N>& p) {
                  add_vector(a.y_bias, i, p.b);
                  store<N>(row + i, p.b);
              });
    const Moments m = moments<0, N>(row, a.hidden, a.post_kind, a.post_eps);
    stream<N>(a.hidden, [&](int i, Pair<N>& p) { load<N>(x_in + i, p.a), load<N>(row + i, p.b); },
              [&](int i, Pair<N>& p) {
                  normalise(p.b, m, a.post_gain, a.post_bias, i);
#pragma unroll
                  for (int e = 0; e < N; ++e) p.a[e] += a.scale * p.b[e];
                  store<N>(row + i, p.a);
              });
}

template <int N, class T>
__device__ __forceinline__ void norm_forward_row(const NormForward<T>& a) {
    DYNAMIC_SMEM(float, row);
    residual_sum<N>(a, row);
    const int kind = a.out ? a.kind : NONE;
    const Moments m = moments<2, N>(row, a.hidden, kind, a.eps);
    float* x_out = a.x_out + size_t(blockIdx.x) * a.hidden;
    T* out = a.out + size_t(blockIdx.x) * a.ldo;
    each<N>(a.hidden, [&](int i) {
        float x[N];
        load<N>(row + i, x);
        if (a.x_out) store<N>(x_out + i, x);
        if (kind != NONE) normalise(x, m, a.gain, a.bias, i);
        if (a.out) store<N>(out + i, x);
    });
    if (a.out) zero_tail(out, a.hidden, a.ldo);
}

// b = post_norm(y + y_bias), x = x_in + scale·b (x_in alone without y), x_out = x, out = norm(x) with zeros in its
// tail. Row i of x_in is `rows[i]` if there are `rows`. x_in, x_out [·, hidden]; y [rows, ldy]; out [rows, ldo];
// vectors [hidden]. Grid (rows), shared memory 4·hidden bytes. Used between any two blocks of the model.
#define NORM_FORWARD(NAME, T)                                                                                        \
    extern "C" __global__ void __launch_bounds__(BLOCK)                                                              \
        NAME(const float* x_in, const u32* rows, const T* y, int ldy, const float* y_bias, const float* post_gain,   \
             const float* post_bias, int post_kind, float post_eps, float scale, float* x_out, const float* gain,      \
             const float* bias, int kind, float eps, T* out, int ldo, int hidden) {                                  \
        const NormForward<T> a = {x_in,  rows, y,    ldy,  y_bias, post_gain, post_bias, post_kind, post_eps,        \
                                  scale, x_out, gain, bias, kind,   eps,       out,       ldo,       hidden};        \
        a.grouped() ? norm_forward_row<GROUP>(a) : norm_forward_row<1>(a);                                           \
    }                                                                                                                \
    KERNEL_EXPORT(NAME)
NORM_FORWARD(norm_forward_bf16, bf16)
NORM_FORWARD(norm_forward_f32, float)

// The gradient of a norm's input x for that of its output, d: n·u − along·(x − mean) − straight, with u = d·gain.
// RMS norm: along = n³·mean(u·x). Layer norm: along = n³·mean(u·(x − mean)), straight = n·mean(u).
struct Slope {
    float mean, n, along, straight;
};

// Puts x and u of the row into shared memory (`row`, `row + width`) and finds the coefficients. `fetch(i, pair)` reads
// x and d, `finish(i, pair)` what else they need.
template <int N, class Fetch, class Finish>
__device__ __forceinline__ Slope norm_slope(float* row, Fetch fetch, Finish finish, const float* gain, int kind,
                                            float eps, int width) {
    float total = 0.0f;
    stream<N>(width, fetch, [&](int i, Pair<N>& p) {
        finish(i, p);
        if (kind != NONE) {
            float g[N];
            load<N>(gain + i, g);
#pragma unroll
            for (int e = 0; e < N; ++e) p.b[e] *= g[e], total += p.a[e];
            store<N>(row + i, p.a);
        }
        store<N>(row + width + i, p.b);
    });
    if (kind == NONE) return {0.0f, 1.0f, 0.0f, 0.0f};
    const float mean = kind == LAYER ? row_sum<0>(total) / width : 0.0f;
    float sums[3] = {};   // Σ (x − mean)², Σ u·(x − mean), Σ u
    each<N>(width, [&](int i) {
        float x[N], u[N];
        load<N>(row + i, x), load<N>(row + width + i, u);
#pragma unroll
        for (int e = 0; e < N; ++e) {
            const float centred = x[e] - mean;
            sums[0] += centred * centred, sums[1] += u[e] * centred, sums[2] += u[e];
        }
    });
    row_sums<1>(sums);
    const float n = 1.0f / sqrtf(sums[0] / width + eps);
    return {mean, n, n * n * n * (sums[1] / width), kind == LAYER ? n * (sums[2] / width) : 0.0f};
}

// Elements i..i + N of the gradient.
template <int N>
__device__ __forceinline__ void gradient(const float* row, const Slope& s, int kind, int i, int width,
                                         float (&out)[N]) {
    load<N>(row + width + i, out);
    if (kind == NONE) return;
    float x[N];
    load<N>(row + i, x);
#pragma unroll
    for (int e = 0; e < N; ++e) out[e] = s.n * out[e] - s.along * (x[e] - s.mean) - s.straight;
}

// out = scale·dx for N elements.
template <int N, class T>
__device__ __forceinline__ void store_scaled(T* out, float scale, int i, const float (&dx)[N]) {
    float x[N];
#pragma unroll
    for (int e = 0; e < N; ++e) x[e] = scale * dx[e];
    store<N>(out + i, x);
}

template <class T>
struct NormBackward {
    const T* dy;
    int lddy;
    const T* dy2;
    int lddy2;
    const float* x, *gain;
    int kind;
    float eps;
    float* dx;
    float scale;
    T* out;
    int ldo, hidden;

    __device__ bool grouped() const {
        return hidden % GROUP == 0 && lddy % GROUP == 0 && lddy2 % GROUP == 0 && ldo % GROUP == 0 && aligned<GROUP>(dy)
            && aligned<GROUP>(dy2) && aligned<GROUP>(x) && aligned<GROUP>(gain) && aligned<GROUP>(dx)
            && aligned<GROUP>(out);
    }
};

template <int N, class T>
__device__ __forceinline__ void norm_backward_row(const NormBackward<T>& a) {
    DYNAMIC_SMEM(float, row);
    const size_t r = blockIdx.x;
    const int width = a.hidden;
    const float* x = a.x + r * width;
    const T* dy = a.dy + r * a.lddy, *dy2 = a.dy2 + r * a.lddy2;
    const Slope slope = norm_slope<N>(
        row,
        [&](int i, Pair<N>& p) {
            if (a.dy) load<N>(dy + i, p.b);
            else
                for (int e = 0; e < N; ++e) p.b[e] = 0.0f;
            if (a.kind != NONE) load<N>(x + i, p.a);
        },
        [&](int i, Pair<N>& p) {
            if (!a.dy2) return;
            float more[N];
            load<N>(dy2 + i, more);
#pragma unroll
            for (int e = 0; e < N; ++e) p.b[e] += more[e];
        },
        a.gain, a.kind, a.eps, width);
    float* dx = a.dx + r * width;
    T* out = a.out + r * a.ldo;
    stream<N>(width, [&](int i, Pair<N>& p) { load<N>(dx + i, p.a); },
              [&](int i, Pair<N>& p) {
                  gradient(row, slope, a.kind, i, width, p.b);
#pragma unroll
                  for (int e = 0; e < N; ++e) p.a[e] += p.b[e];
                  store<N>(dx + i, p.a);
                  if (a.out) store_scaled(out, a.scale, i, p.a);
              });
    if (a.out) zero_tail(out, width, a.ldo);
}

// dx += gradient of the norm at x for dy + dy2 (null: zeros); out = scale·dx with zeros in its tail. x, dx [rows, hidden]; gain
// [hidden]. Grid (rows), shared memory 8·hidden bytes. Used between any two blocks of the model.
#define NORM_BACKWARD(NAME, T)                                                                                       \
    extern "C" __global__ void __launch_bounds__(BLOCK)                                                              \
        NAME(const T* dy, int lddy, const T* dy2, int lddy2, const float* x, const float* gain, int kind, float      \
             eps, float* dx, float scale, T* out, int ldo, int hidden) {                                             \
        const NormBackward<T> a = {dy, lddy, dy2, lddy2, x, gain, kind, eps, dx, scale, out, ldo, hidden};           \
        a.grouped() ? norm_backward_row<GROUP>(a) : norm_backward_row<1>(a);                                         \
    }                                                                                                                \
    KERNEL_EXPORT(NAME)
NORM_BACKWARD(norm_backward_bf16, bf16)
NORM_BACKWARD(norm_backward_f32, float)

template <class T>
struct PostNormBackward {
    const float* dx;
    float scale;
    const T* y;
    int ldy;
    const float* y_bias, *gain;
    int kind;
    float eps;
    T* out;
    int ldo, hidden;

    __device__ bool grouped() const {
        return hidden % GROUP == 0 && ldy % GROUP == 0 && ldo % GROUP == 0 && aligned<GROUP>(dx) && aligned<GROUP>(y)
            && aligned<GROUP>(y_bias) && aligned<GROUP>(gain) && aligned<GROUP>(out);
    }
};

template <int N, class T>
__device__ __forceinline__ void post_norm_backward_row(const PostNormBackward<T>& a) {
    DYNAMIC_SMEM(float, row);
    const size_t r = blockIdx.x;
    const int width = a.hidden;
    const float* dx = a.dx + r * width;
    const T* y = a.y + r * a.ldy;
    const Slope slope = norm_slope<N>(
        row, [&](int i, Pair<N>& p) { load<N>(y + i, p.a), load<N>(dx + i, p.b); },
        [&](int i, Pair<N>& p) {
            add_vector(a.y_bias, i, p.a);
#pragma unroll
            for (int e = 0; e < N; ++e) p.b[e] *= a.scale;
        },
        a.gain, a.kind, a.eps, width);
    T* out = a.out + r * a.ldo;
    each<N>(width, [&](int i) {
        float own[N];
        gradient(row, slope, a.kind, i, width, own);
        store<N>(out + i, own);
    });
    zero_tail(out, width, a.ldo);
}

// out = gradient of the norm at y + y_bias for scale·dx, with zeros in its tail. dx [rows, hidden]; vectors [hidden].
// Grid (rows), shared memory 8·hidden bytes. Used where a block's output is normed before it is added.
#define POST_NORM_BACKWARD(NAME, T)                                                                                  \
    extern "C" __global__ void __launch_bounds__(BLOCK)                                                              \
        NAME(const float* dx, float scale, const T* y, int ldy, const float* y_bias, const float* gain, int kind,    \
             float eps, T* out, int ldo, int hidden) {                                                               \
        const PostNormBackward<T> a = {dx, scale, y, ldy, y_bias, gain, kind, eps, out, ldo, hidden};                \
        a.grouped() ? post_norm_backward_row<GROUP>(a) : post_norm_backward_row<1>(a);                               \
    }                                                                                                                \
    KERNEL_EXPORT(NAME)
POST_NORM_BACKWARD(post_norm_backward_bf16, bf16)
POST_NORM_BACKWARD(post_norm_backward_f32, float)

template <class T>
struct ScoredBackward {
    const T* slopes;
    const float* weights;
    const int* starts, *items;
    const float* x, *gain;
    int kind;
    float eps;
    float* dx;
    float scale;
    T* out;
    int ldo, hidden;

    __device__ bool grouped() const {
        return hidden % GROUP == 0 && ldo % GROUP == 0 && aligned<GROUP>(slopes) && aligned<GROUP>(x)
            && aligned<GROUP>(gain) && aligned<GROUP>(dx) && aligned<GROUP>(out);
    }
};

// d = Σ over the row's scored tokens of weight·slope, elements i..i + N.
template <int N, class T>
__device__ __forceinline__ void scored(const ScoredBackward<T>& a, int first, int last, int i, float (&d)[N]) {
#pragma unroll
    for (int e = 0; e < N; ++e) d[e] = 0.0f;
#pragma unroll 1
    for (int k = first; k < last; ++k) {
        const int item = a.items[k];
        const float weight = a.weights[item];
        float slope[N];
        load<N>(a.slopes + size_t(item) * a.hidden + i, slope);
#pragma unroll
        for (int e = 0; e < N; ++e) d[e] += weight * slope[e];
    }
}

template <int N, class T>
__device__ __forceinline__ void scored_backward_row(const ScoredBackward<T>& a) {
    DYNAMIC_SMEM(float, row);
    const size_t r = blockIdx.x;
    const int width = a.hidden, first = a.starts[r], last = a.starts[r + 1];
    const float* x = a.x + r * width;
    float* dx = a.dx + r * width;
    T* out = a.out + r * a.ldo;
    if (a.out) zero_tail(out, width, a.ldo);
    if (first >= last) {
        each<N>(width, [&](int i) {
            const float zero[N] = {};
            store<N>(dx + i, zero);
            if (a.out) store<N>(out + i, zero);
        });
        return;
    }
    const Slope slope = norm_slope<N>(
        row,
        [&](int i, Pair<N>& p) {
            load<N>(x + i, p.a);
            scored(a, first, last, i, p.b);
        },
        [](int, Pair<N>&) {}, a.gain, a.kind, a.eps, width);
    each<N>(width, [&](int i) {
        float own[N];
        gradient(row, slope, a.kind, i, width, own);
        store<N>(dx + i, own);
        if (a.out) store_scaled(out, a.scale, i, own);
    });
}

// For row t: d = Σ of weights[s]·slopes[s] over s in items[starts[t]..starts[t+1]], in order; dx = gradient of the norm
// at x for d; out = scale·dx with zeros in its tail. slopes [S, hidden], weights [S], starts [rows + 1], x, dx [rows,
// hidden]. Grid (rows), shared memory 8·hidden bytes. Where the backward pass begins: at the final norm.
#define SCORED_BACKWARD(NAME, T)                                                                                     \
    extern "C" __global__ void __launch_bounds__(BLOCK)                                                              \
        NAME(const T* slopes, const float* weights, const int* starts, const int* items, const float* x, const       \
             float* gain, int kind, float eps, float* dx, float scale, T* out, int ldo, int hidden) {                \
        const ScoredBackward<T> a = {slopes, weights, starts, items, x, gain, kind, eps, dx, scale, out, ldo, hidden}; \
        a.grouped() ? scored_backward_row<GROUP>(a) : scored_backward_row<1>(a);                                     \
    }                                                                                                                \
    KERNEL_EXPORT(NAME)
SCORED_BACKWARD(scored_backward_bf16, bf16)
SCORED_BACKWARD(scored_backward_f32, float)
