// Test of shim.h itself: each operation against plain loops. Prints nothing and returns 0 if all is well.
#include "common.cuh"

#include <sys/wait.h>
#include <unistd.h>

static int failures = 0;
static void check(bool good, const char* what) {
    if (!good) std::fprintf(stderr, "shim_test: %s\n", what), ++failures;
}

// out[i] = sum over the block of x, and lanes turned by one, for blocks of several warps.
extern "C" __global__ void sums(const float* x, float* out, int* turned) {
    __shared__ float scratch[32];
    const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
    const int lane = int(threadIdx.x % 32);
    out[i] = block_sum(x[i], scratch) + block_max(x[i], scratch);
    turned[i] = __shfl_sync(ALL_LANES, i, (lane + 1) % 32) + 1000 * __shfl_down_sync(ALL_LANES, lane, 3u);
    if (threadIdx.x < 32 && __ballot_sync(ALL_LANES, lane % 3 == 0) != 0x49249249u) turned[i] = -1;
    if (lane < 8) turned[i] += __shfl_xor_sync(0xffu, 0, 1);
}
KERNEL_EXPORT(sums)

// Each thread passes its number to the left around the block through shared memory.
extern "C" __global__ void ring(int* out, int rounds) {
    DYNAMIC_SMEM(int, slots);
    const int n = int(blockDim.x), me = int(threadIdx.x);
    int value = me;
    for (int round = 0; round < rounds; ++round) {
        slots[me] = value;
        __syncthreads();
        value = slots[(me + 1) % n];
        __syncthreads();
    }
    out[blockIdx.x * blockDim.x + threadIdx.x] = value;
}
KERNEL_EXPORT(ring)

// c[16,8] = a[16,16] · b[16,8], a and b through shared memory; rows of a at or above `rows` read as zeros.
// b is stored by rows (then its fragments come transposed), or bt[8,16] by columns.
extern "C" __global__ void product(const bf16* a, const bf16* b, const bf16* bt, int rows, float* c, float* c2) {
    DYNAMIC_SMEM(bf16, smem);
    bf16 *sa = smem, *sb = smem + 256, *sbt = smem + 384;
    const int lane = int(threadIdx.x);
    cp_async16(sa + lane * 8, a + lane * 8, lane / 2 < rows);
    cp_async_commit();
    if (lane < 16) cp_async16(sb + lane * 8, b + lane * 8, true), cp_async16(sbt + lane * 8, bt + lane * 8, true);
    cp_async_commit();
    cp_async_wait<1>();
    cp_async_wait<0>();
    __syncwarp();
    u32 fa[4], fb[2], fbt[2];
    ldmatrix_x4(fa, sa + lane % 16 * 16 + lane / 16 * 8);
    ldmatrix_x2_trans(fb, sb + lane % 16 * 8);
    ldmatrix_x2(fbt, sbt + lane % 8 * 16 + lane / 8 % 2 * 8);
    float x[4] = {0, 0, 0, 0}, y[4] = {0, 0, 0, 0};
    mma_bf16(x, fa, fb[0], fb[1]);
    mma_bf16(y, fa, fbt[0], fbt[1]);
    for (int i = 0; i < 4; ++i) {
        const int at = (lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2;
        c[at] = x[i];
        c2[at] = y[i];
    }
}
KERNEL_EXPORT(product)

// Four matrices at once, plain and transposed: all words by lane.
extern "C" __global__ void matrices(const bf16* x, u32* plain, u32* transposed) {
    DYNAMIC_SMEM(bf16, smem);
    const int lane = int(threadIdx.x);
    for (int i = 0; i < 8; ++i) smem[lane * 8 + i] = x[lane * 8 + i];
    __syncwarp();
    u32 r[4];
    ldmatrix_x4(r, smem + lane * 8);
    for (int i = 0; i < 4; ++i) plain[lane * 4 + i] = r[i];
    ldmatrix_x4_trans(r, smem + lane * 8);
    for (int i = 0; i < 4; ++i) transposed[lane * 4 + i] = r[i];
}
KERNEL_EXPORT(matrices)

// Mistakes that must end the program.
extern "C" __global__ void mistakes(int kind) {
    DYNAMIC_SMEM(float, smem);
    const int me = int(threadIdx.x);
    if (kind == 0 && me < 40) __syncthreads();
    if (kind == 1 && me < 40) __syncthreads();
    else if (kind == 1) __syncthreads();
    if (kind == 2 && me < 5) __shfl_xor_sync(ALL_LANES, me, 1);
    if (kind == 3) smem[me + 8] = 0.0f;
    if (kind == 4 && me < 3) return;
    __syncthreads();
}
KERNEL_EXPORT(mistakes)

static float number(int i) { return float((i * 37 + 11) % 29 - 14) / 8.0f; }

static void test_sums() {
    std::vector<float> x(256), out(256);
    std::vector<int> turned(256);
    for (int i = 0; i < 256; ++i) x[i] = number(i);
    const float* px = x.data();
    float* pout = out.data();
    int* pturned = turned.data();
    void* args[] = {&px, &pout, &pturned};
    emu_sums(2, 1, 1, 128, 0, args);
    for (int i = 0; i < 256; ++i) {
        const auto first = x.begin() + i / 128 * 128;
        const float sum = std::accumulate(first, first + 128, 0.0f), most = *std::max_element(first, first + 128);
        check(out[i] == sum + most, "block_sum or block_max");
        const int lane = i % 32, down = lane + 3 < 32 ? lane + 3 : lane;
        check(turned[i] == i / 32 * 32 + (lane + 1) % 32 + 1000 * down, "shuffles");
    }
}

static void test_ring() {
    std::vector<int> out(2 * 96);
    int* pout = out.data();
    int rounds = 50;
    void* args[] = {&pout, &rounds};
    emu_ring(2, 1, 1, 96, 96 * 4, args);
    for (int i = 0; i < 192; ++i) check(out[i] == (i % 96 + rounds) % 96, "barriers");
}

static void test_product(int rows) {
    alignas(16) bf16 a[256], b[128], bt[128];
    float c[128], c2[128];
    for (int i = 0; i < 256; ++i) a[i] = from_float<bf16>(number(i));
    for (int i = 0; i < 128; ++i) b[i] = from_float<bf16>(number(3 * i + 1)), bt[i % 8 * 16 + i / 8] = b[i];
    const bf16 *pa = a, *pb = b, *pbt = bt;
    float *pc = c, *pc2 = c2;
    void* args[] = {&pa, &pb, &pbt, &rows, &pc, &pc2};
    emu_product(1, 1, 1, 32, 1024, args);
    for (int i = 0; i < 16; ++i)
        for (int j = 0; j < 8; ++j) {
            float want = 0.0f;
            for (int k = 0; k < 16; ++k) want += i < rows ? to_float(a[i * 16 + k]) * to_float(b[k * 8 + j]) : 0.0f;
            check(c[i * 8 + j] == want && c2[i * 8 + j] == want, "mma, ldmatrix or cp.async");
        }
}

static void test_matrices() {
    alignas(16) bf16 x[256];
    u32 plain[128], transposed[128];
    for (int i = 0; i < 256; ++i) x[i].bits = u16(i * 257);
    const bf16* px = x;
    u32 *pp = plain, *pt = transposed;
    void* args[] = {&px, &pp, &pt};
    emu_matrices(1, 1, 1, 32, 512, args);
    const auto word = [&](int first, int second) { return u32(x[first].bits) | u32(x[second].bits) << 16; };
    for (int lane = 0; lane < 32; ++lane)
        for (int i = 0; i < 4; ++i) {
            const int g = lane / 4, t = lane % 4 * 2, m = i * 64;
            check(plain[lane * 4 + i] == word(m + g * 8 + t, m + g * 8 + t + 1), "ldmatrix");
            check(transposed[lane * 4 + i] == word(m + t * 8 + g, m + t * 8 + 8 + g), "ldmatrix.trans");
        }
}

static void test_numbers() {
    check(round(to_float(from_float<bf16>(1.00390625f)) * 1024) == 1024, "bf16: ties go to even");
    check(to_float(from_float<bf16>(1.01171875f)) == 1.015625f, "bf16: ties go to even");
    check(std::isnan(to_float(from_float<bf16>(NAN))), "bf16: NaN stays NaN");
    check(std::isinf(to_float(from_float<bf16>(3.4e38f))), "bf16: overflow");
    check(half_to_float(0x3c00) == 1.0f && half_to_float(0xc100) == -2.5f && half_to_float(1) == ldexpf(1, -24), "f16");
    check(fast_exp2(-infinity()) == 0.0f && fast_exp2(3.0f) == 8.0f, "exp2");
}

static bool dies(int kind) {
    const pid_t child = fork();
    if (child == 0) {
        if (!std::freopen("/dev/null", "w", stderr)) std::exit(1);
        void* args[] = {&kind};
        emu_mistakes(1, 1, 1, 64, 256, args);
        std::_Exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

static void test_mistakes() {
    for (int kind = 0; kind < 5; ++kind) check(dies(kind), "a mistake is not found");
    check(!dies(5), "a mistake is found where there is none");
}

int main() {
    for (const char* order : {"forward", "backward", "shuffled"})
        for (const char* async : {"late", "early"}) {
            setenv("SHIM_ORDER", order, 1);
            setenv("SHIM_ASYNC", async, 1);
            test_sums();
            test_ring();
            for (int rows : {16, 5, 0}) test_product(rows);
            test_matrices();
        }
    test_numbers();
    test_mistakes();
    return failures ? 1 : 0;
}
