// Shared by all kernels: types, conversions, reductions in a fixed order, 16-byte accesses, and the few PTX instructions
// that C++ does not name. Compiled by NVRTC without headers, and by a C++ compiler through tests/device/shim.h.
#pragma once

#ifdef HOST_SHIM
#include "shim.h"
#endif

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

// ---- Kernel entry points and shared memory ----

#ifdef HOST_SHIM
// Host entry point emu_NAME(grid x, y, z, block x, bytes of dynamic shared memory, pointers to the arguments).
#define KERNEL_EXPORT(name)                                                                                          \
    extern "C" void emu_##name(unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned smem, void** args) {     \
        shim::launch(#name, name, gx, gy, gz, bx, smem, args);                                                       \
    }
#define DYNAMIC_SMEM(type, name) type* name = reinterpret_cast<type*>(shim::dynamic_smem())
#else
#define KERNEL_EXPORT(name)
#define DYNAMIC_SMEM(type, name)                                                                                     \
    extern __shared__ __align__(128) unsigned char name##_bytes[];                                                   \
    type* name = reinterpret_cast<type*>(name##_bytes)
#endif

// ---- Numbers ----

struct bf16 {
    u16 bits;
};

__device__ __forceinline__ float infinity() { return __uint_as_float(0x7f800000u); }

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __uint_as_float(u32(x.bits) << 16); }

// Two floats as two bf16 in one word, `low` in the lower half; nearest even, NaN stays NaN.
__device__ __forceinline__ u32 pack_bf16(float low, float high) {
#ifdef HOST_SHIM
    return u32(shim::round_to_bf16(low)) | u32(shim::round_to_bf16(high)) << 16;
#else
    u32 packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
#endif
}

__device__ __forceinline__ float low_bf16(u32 packed) { return __uint_as_float(packed << 16); }
__device__ __forceinline__ float high_bf16(u32 packed) { return __uint_as_float(packed & 0xffff0000u); }

template <class T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
    return x;
}
template <>
__device__ __forceinline__ bf16 from_float<bf16>(float x) {
    bf16 y;
    y.bits = u16(pack_bf16(x, 0.0f));
    return y;
}

// IEEE half precision, by its bits.
__device__ __forceinline__ float half_to_float(u16 bits) {
#ifdef HOST_SHIM
    return shim::half_to_float(bits);
#else
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
#endif
}

// 2^x to 2 ulp; 2^-inf = 0; results below 2^-126 are 0.
__device__ __forceinline__ float fast_exp2(float x) {
#ifdef HOST_SHIM
    return shim::flush(exp2f(x));
#else
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}

// ---- 16-byte accesses ----

__device__ __forceinline__ bool aligned16(const void* p) { return (reinterpret_cast<size_t>(p) & 15) == 0; }

// Eight elements at a 16-byte boundary.
__device__ __forceinline__ void load8(const float* p, float (&x)[8]) {
    const float4 a = reinterpret_cast<const float4*>(p)[0], b = reinterpret_cast<const float4*>(p)[1];
    x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w;
    x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
}
__device__ __forceinline__ void unpack8(uint4 a, float (&x)[8]) {
    x[0] = low_bf16(a.x), x[1] = high_bf16(a.x), x[2] = low_bf16(a.y), x[3] = high_bf16(a.y);
    x[4] = low_bf16(a.z), x[5] = high_bf16(a.z), x[6] = low_bf16(a.w), x[7] = high_bf16(a.w);
}
__device__ __forceinline__ void load8(const bf16* p, float (&x)[8]) {
    unpack8(*reinterpret_cast<const uint4*>(p), x);
}
__device__ __forceinline__ void store8(float* p, const float (&x)[8]) {
    reinterpret_cast<float4*>(p)[0] = make_float4(x[0], x[1], x[2], x[3]);
    reinterpret_cast<float4*>(p)[1] = make_float4(x[4], x[5], x[6], x[7]);
}
__device__ __forceinline__ void store8(bf16* p, const float (&x)[8]) {
    *reinterpret_cast<uint4*>(p) = make_uint4(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]),
                                              pack_bf16(x[6], x[7]));
}
// Four floats at a 16-byte boundary.
__device__ __forceinline__ void load4(const float* p, float (&x)[4]) {
    const float4 a = *reinterpret_cast<const float4*>(p);
    x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w;
}
__device__ __forceinline__ void store4(float* p, const float (&x)[4]) {
    *reinterpret_cast<float4*>(p) = make_float4(x[0], x[1], x[2], x[3]);
}

// Zeros in columns [width, pitch) of a row, by all threads of the block.
template <class T>
__device__ __forceinline__ void zero_tail(T* row, int width, int pitch) {
    for (int i = width + int(threadIdx.x); i < pitch; i += int(blockDim.x)) row[i] = from_float<T>(0.0f);
}

// ---- Reductions: the same order for every block of one size ----

constexpr u32 ALL_LANES = 0xffffffffu;

template <class V>
__device__ __forceinline__ V warp_sum(V x) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(ALL_LANES, x, step);
    return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, step));
    return x;
}

// Sum over the block, whole warps; every thread gets it. `scratch`: 32 shared values, free again at the next barrier.
template <class V>
__device__ __forceinline__ V block_sum(V x, V* scratch) {
    x = warp_sum(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
    __syncthreads();
    V sum = scratch[0];
    for (int warp = 1; warp < int(blockDim.x / 32); ++warp) sum += scratch[warp];
    return sum;
}
// Maximum over the block, likewise.
__device__ __forceinline__ float block_max(float x, float* scratch) {
    x = warp_max(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
    __syncthreads();
    float most = scratch[0];
    for (int warp = 1; warp < int(blockDim.x / 32); ++warp) most = fmaxf(most, scratch[warp]);
    return most;
}

// ---- Tensor cores and asynchronous copies ----

// c[16,8] += a[16,16] · b[16,8], bf16 with f32 sums. With g = lane / 4, t = lane % 4, a word's lower half first:
// a[0..4]: rows g, g+8, g, g+8; columns 2t, 2t+1 (+8 for a[2], a[3]). b0, b1: rows 2t, 2t+1 (+8), column g.
// c[0..4]: (g, 2t), (g, 2t+1), (g+8, 2t), (g+8, 2t+1).
__device__ __forceinline__ void mma_bf16(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#ifdef HOST_SHIM
    shim::mma(c, a, b0, b1);
#else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

#ifndef HOST_SHIM
__device__ __forceinline__ u32 shared_address(const void* p) { return u32(__cvta_generic_to_shared(p)); }
#endif

// 8×8 matrices of 16-bit elements from shared memory: lane 8·i + r gives the address of row r (16 bytes) of matrix i.
// Lane l gets elements (l/4, 2·(l%4)) and its right neighbour of matrix i in r[i]; transposed: (2·(l%4), l/4) and below.
__device__ __forceinline__ void ldmatrix_x4(u32 (&r)[4], const void* row) {
#ifdef HOST_SHIM
    shim::ldmatrix(r, 4, false, row);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
#endif
}
__device__ __forceinline__ void ldmatrix_x4_trans(u32 (&r)[4], const void* row) {
#ifdef HOST_SHIM
    shim::ldmatrix(r, 4, true, row);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
#endif
}
__device__ __forceinline__ void ldmatrix_x2(u32 (&r)[2], const void* row) {
#ifdef HOST_SHIM
    shim::ldmatrix(r, 2, false, row);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
#endif
}
__device__ __forceinline__ void ldmatrix_x2_trans(u32 (&r)[2], const void* row) {
#ifdef HOST_SHIM
    shim::ldmatrix(r, 2, true, row);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
#endif
}

// Starts a copy of 16 bytes to shared memory; zeros if not `valid` (then `from` is not read).
__device__ __forceinline__ void cp_async16(void* to, const void* from, bool valid) {
#ifdef HOST_SHIM
    shim::cp_async(to, from, valid);
#else
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
                 "r"(valid ? 16 : 0)
                 : "memory");
#endif
}
// Closes a group of copies.
__device__ __forceinline__ void cp_async_commit() {
#ifdef HOST_SHIM
    shim::cp_async_commit();
#else
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
// Waits until at most the last N groups of this thread are unfinished. A barrier must follow before others read.
template <int N>
__device__ __forceinline__ void cp_async_wait() {
#ifdef HOST_SHIM
    shim::cp_async_wait(N);
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}
