"""The real llama.cpp on a GGUF file."""
import xllamacpp


def serve(base, exact, adapter=None):
    """A server in this process. `exact`: an F32 cache and no flash attention, so that it rounds nothing of an F32 file."""
    params = xllamacpp.CommonParams()
    params.model.path = str(base)
    params.n_ctx, params.n_parallel, params.cpuparams.n_threads, params.warmup = 256, 1, 1, False  # its threads spin: two crawl where a core is busy
    params.verbosity = 1  # errors
    if exact:
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    if adapter:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(adapter), 1.0)]
    return xllamacpp.Server(params)
