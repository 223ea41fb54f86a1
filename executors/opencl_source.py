"""Random numbers in OpenCL C, put in front of each `OpenCLWorker`: the numbers of `pointsman.draws`, place by place."""

DRAWS = """
#pragma OPENCL FP_CONTRACT OFF
#ifdef cl_khr_fp64
#pragma OPENCL EXTENSION cl_khr_fp64 : enable
#endif

/* Philox-4x32-10 (Salmon et al. 2011): a block of four words of a key's stream. */
static uint4 pm_words(uint4 key, uint block, uint stream)
{
    uint4 c = (uint4)(block, stream, key.z, key.w);
    uint2 k = key.xy;
    for (int turn = 0; turn < 10; turn++) {
        const uint h0 = mul_hi(0xD2511F53u, c.x), l0 = 0xD2511F53u * c.x;
        const uint h1 = mul_hi(0xCD9E8D57u, c.z), l1 = 0xCD9E8D57u * c.z;
        c = (uint4)(h1 ^ c.y ^ k.x, l1, h0 ^ c.w ^ k.y, l0);
        k += (uint2)(0x9E3779B9u, 0xBB67AE85u);
    }
    return c;
}

#ifdef cl_khr_fp64
static double pm_double(uint high, uint low)
{
    return ((double)(high >> 5) * 67108864.0 + (double)(low >> 6)) * 0x1p-53;
}

/* Numbers 2 block and 2 block + 1 of a stream. */
static double2 pm_uniform2(uint4 key, uint block, uint stream)
{
    const uint4 w = pm_words(key, block, stream);
    return (double2)(pm_double(w.x, w.y), pm_double(w.z, w.w));
}

static double2 pm_normal2(uint4 key, uint block, uint stream)
{
    const double2 u = pm_uniform2(key, block, stream);
    const double radius = sqrt(-2.0 * log(1.0 - u.x)), angle = u.y * (2.0 * M_PI);
    return (double2)(radius * cos(angle), radius * sin(angle));
}

/* Number i of a stream. */
static double pm_uniform(uint4 key, ulong i, uint stream)
{
    const double2 u = pm_uniform2(key, (uint)(i >> 1), stream);
    return i & 1 ? u.y : u.x;
}

static double pm_normal(uint4 key, ulong i, uint stream)
{
    const double2 z = pm_normal2(key, (uint)(i >> 1), stream);
    return i & 1 ? z.y : z.x;
}
#endif

/* Numbers 4 block to 4 block + 3 of a stream, in float32. */
static float4 pm_uniform4f(uint4 key, uint block, uint stream)
{
    return convert_float4(pm_words(key, block, stream) >> 8) * 0x1p-24f;
}

static float2 pm_pairf(uint high, uint low)
{
    const float radius = sqrt(-2.0f * log((float)((ulong)high + 1) * 0x1p-32f));
    const float angle = (float)(low >> 8) * 0x1p-24f * 6.2831855f;
    return (float2)(radius * cos(angle), radius * sin(angle));
}

static float4 pm_normal4f(uint4 key, uint block, uint stream)
{
    const uint4 w = pm_words(key, block, stream);
    return (float4)(pm_pairf(w.x, w.y), pm_pairf(w.z, w.w));
}
"""
