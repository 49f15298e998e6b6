//! The functions of the CUDA driver and of cuBLASLt that are used. They are looked up in the libraries at run time, so the
//! program also starts without them.

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::path::Path;

use libloading::Library;

/// A result of the driver: 0 is success.
pub(super) type Status = c_int;
/// An opaque object of a library.
pub(super) type Handle = *mut c_void;

/// A two-dimensional copy (`CUDA_MEMCPY2D`).
#[repr(C)]
pub(super) struct Copy2d {
    pub(super) src_x: usize,
    pub(super) src_y: usize,
    pub(super) src_type: c_uint,
    pub(super) src_host: *const c_void,
    pub(super) src_device: u64,
    pub(super) src_array: Handle,
    pub(super) src_pitch: usize,
    pub(super) dst_x: usize,
    pub(super) dst_y: usize,
    pub(super) dst_type: c_uint,
    pub(super) dst_host: *mut c_void,
    pub(super) dst_device: u64,
    pub(super) dst_array: Handle,
    pub(super) dst_pitch: usize,
    pub(super) width: usize,
    pub(super) height: usize,
}

/// `CU_MEMORYTYPE_HOST` and `CU_MEMORYTYPE_DEVICE`.
pub(super) const HOST: c_uint = 1;
pub(super) const DEVICE: c_uint = 2;

/// An algorithm of cuBLASLt (`cublasLtMatmulAlgo_t`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Algorithm(pub(super) [u64; 8]);

/// A result of its heuristic (`cublasLtMatmulHeuristicResult_t`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Found {
    pub(super) algorithm: Algorithm,
    pub(super) workspace: usize,
    pub(super) state: c_int,
    pub(super) waves: f32,
    reserved: [c_int; 4],
}

macro_rules! library {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident = $symbol:literal: fn($($arg:ty),*)),* $(,)? }) => {
        $(#[$meta])*
        pub(super) struct $name {
            $($(#[$field_meta])* pub(super) $field: unsafe extern "C" fn($($arg),*) -> Status,)*
            _library: Library,
        }

        impl $name {
            /// Opens the library and finds all functions.
            ///
            /// # Errors
            /// What is missing, in the system's words.
            pub(super) fn open(path: &Path) -> Result<Self, String> {
                // SAFETY: NVIDIA's library, whose initialisers may run on any thread.
                let library = unsafe { Library::new(path) }.map_err(|e| e.to_string())?;
                // SAFETY: the types are those of NVIDIA's headers, and the library lives as long as the pointers.
                unsafe {
                    Ok(Self {
                        $($field: *library.get(concat!($symbol, "\0").as_bytes()).map_err(|e| e.to_string())?,)*
                        _library: library,
                    })
                }
            }
        }
    };
}

library! {
    /// The driver (`libcuda.so.1`).
    Driver {
        init = "cuInit": fn(c_uint),
        version = "cuDriverGetVersion": fn(*mut c_int),
        count = "cuDeviceGetCount": fn(*mut c_int),
        device = "cuDeviceGet": fn(*mut c_int, c_int),
        device_name = "cuDeviceGetName": fn(*mut c_char, c_int, c_int),
        device_memory = "cuDeviceTotalMem_v2": fn(*mut usize, c_int),
        attribute = "cuDeviceGetAttribute": fn(*mut c_int, c_int, c_int),
        retain = "cuDevicePrimaryCtxRetain": fn(*mut Handle, c_int),
        release = "cuDevicePrimaryCtxRelease_v2": fn(c_int),
        set_current = "cuCtxSetCurrent": fn(Handle),
        memory = "cuMemGetInfo_v2": fn(*mut usize, *mut usize),
        stream_create = "cuStreamCreate": fn(*mut Handle, c_uint),
        stream_wait = "cuStreamSynchronize": fn(Handle),
        allocate = "cuMemAlloc_v2": fn(*mut u64, usize),
        free = "cuMemFree_v2": fn(u64),
        upload = "cuMemcpyHtoDAsync_v2": fn(u64, *const c_void, usize, Handle),
        download = "cuMemcpyDtoHAsync_v2": fn(*mut c_void, u64, usize, Handle),
        copy_rows = "cuMemcpy2DAsync_v2": fn(*const Copy2d, Handle),
        fill = "cuMemsetD8Async": fn(u64, u8, usize, Handle),
        fill_rows = "cuMemsetD2D8Async": fn(u64, usize, u8, usize, usize, Handle),
        module_load = "cuModuleLoadDataEx": fn(*mut Handle, *const c_void, c_uint, *mut c_int, *mut *mut c_void),
        function = "cuModuleGetFunction": fn(*mut Handle, Handle, *const c_char),
        function_set = "cuFuncSetAttribute": fn(Handle, c_int, c_int),
        launch = "cuLaunchKernel": fn(Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle, *mut *mut c_void, *mut *mut c_void),
        event_create = "cuEventCreate": fn(*mut Handle, c_uint),
        event_record = "cuEventRecord": fn(Handle, Handle),
        event_elapsed = "cuEventElapsedTime": fn(*mut f32, Handle, Handle),
        event_destroy = "cuEventDestroy_v2": fn(Handle),
        error_name = "cuGetErrorName": fn(Status, *mut *const c_char),
    }
}

library! {
    /// Matrix products (`libcublasLt.so.12` or `.13`).
    BlasLt {
        create = "cublasLtCreate": fn(*mut Handle),
        layout_create = "cublasLtMatrixLayoutCreate": fn(*mut Handle, c_int, u64, u64, i64),
        layout_set = "cublasLtMatrixLayoutSetAttribute": fn(Handle, c_int, *const c_void, usize),
        layout_destroy = "cublasLtMatrixLayoutDestroy": fn(Handle),
        matmul_create = "cublasLtMatmulDescCreate": fn(*mut Handle, c_int, c_int),
        matmul_set = "cublasLtMatmulDescSetAttribute": fn(Handle, c_int, *const c_void, usize),
        preference_create = "cublasLtMatmulPreferenceCreate": fn(*mut Handle),
        preference_set = "cublasLtMatmulPreferenceSetAttribute": fn(Handle, c_int, *const c_void, usize),
        preference_destroy = "cublasLtMatmulPreferenceDestroy": fn(Handle),
        heuristic = "cublasLtMatmulAlgoGetHeuristic": fn(Handle, Handle, Handle, Handle, Handle, Handle, Handle, c_int, *mut Found, *mut c_int),
        algorithm_get = "cublasLtMatmulAlgoConfigGetAttribute": fn(*const Algorithm, c_int, *mut c_void, usize, *mut usize),
        matmul = "cublasLtMatmul": fn(Handle, Handle, *const c_void, *const c_void, Handle, *const c_void, Handle, *const c_void, *const c_void, Handle, *mut c_void, Handle, *const Algorithm, *mut c_void, usize, Handle),
    }
}

/// The name of a group of ranks (`ncclUniqueId`).
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct UniqueId(pub(super) [u8; 128]);

/// `ncclFloat32`.
pub(super) const NCCL_F32: c_int = 7;

library! {
    /// Messages between cards (`libnccl.so.2`, 2.7 or later).
    Nccl {
        version = "ncclGetVersion": fn(*mut c_int),
        unique_id = "ncclGetUniqueId": fn(*mut UniqueId),
        join = "ncclCommInitRank": fn(*mut Handle, c_int, UniqueId, c_int),
        send = "ncclSend": fn(*const c_void, usize, c_int, c_int, Handle, Handle),
        receive = "ncclRecv": fn(*mut c_void, usize, c_int, c_int, Handle, Handle),
        broadcast = "ncclBroadcast": fn(*const c_void, *mut c_void, usize, c_int, c_int, Handle, Handle),
        destroy = "ncclCommDestroy": fn(Handle),
    }
}

/// cuBLASLt's version; its function returns it.
pub(super) fn blas_version(path: &Path) -> Option<usize> {
    // SAFETY: as above; the function takes nothing and returns a size.
    unsafe {
        let library = Library::new(path).ok()?;
        let version: libloading::Symbol<unsafe extern "C" fn() -> usize> =
            library.get(b"cublasLtGetVersion\0").ok()?;
        Some(version())
    }
}
