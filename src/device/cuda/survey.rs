//! What is installed: driver, library and GPUs.

use std::ffi::{CStr, c_char, c_int};
use std::path::{Path, PathBuf};
use std::ptr;

use super::super::ffi::{self, Driver, Status};
use super::super::libraries;
use crate::error::{Error, Result};

/// `CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR` and `..._MINOR`.
const CAPABILITY: [c_int; 2] = [75, 76];

/// The lowest compute capability with bf16.
const OLDEST: (c_int, c_int) = (8, 0);

/// A GPU as `dpo-lora devices` lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// Its number.
    pub ordinal: usize,
    /// Its name.
    pub name: String,
    /// Compute capability.
    pub capability: (i32, i32),
    /// Bytes of memory.
    pub memory: usize,
}

impl Card {
    /// Whether it has bf16 arithmetic.
    pub fn is_new_enough(&self) -> bool {
        self.capability >= OLDEST
    }
}

/// What the machine can compute with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// The driver's CUDA version, as 12.8.
    pub driver: Option<String>,
    /// cuBLASLt's version and path.
    pub blas: Option<(String, PathBuf)>,
    /// The GPUs.
    pub cards: Vec<Card>,
    /// What is missing, and how to install it.
    pub missing: Vec<String>,
}

/// Looks for driver, library and GPUs.
pub fn survey() -> Survey {
    let mut survey = Survey::default();
    match libraries::driver().and_then(|driver| started(&driver).map(|()| driver)) {
        Err(error) => survey.missing.push(error.to_string()),
        Ok(driver) => {
            survey.driver = Some(version_of(&driver));
            match cards(&driver) {
                Ok(cards) if cards.is_empty() => survey.missing.push("the driver finds no GPU".into()),
                Ok(cards) => survey.cards = cards,
                Err(error) => survey.missing.push(error.to_string()),
            }
        }
    }
    match libraries::blas() {
        Ok((_, path)) => survey.blas = Some((blas_version(&path), path)),
        Err(error) => survey.missing.push(error.to_string()),
    }
    survey
}

/// Whether a driver is installed; only looks for the library.
pub fn has_driver() -> bool {
    libraries::driver().is_ok()
}

/// The number of GPUs that this process may use; 0 if there is no driver.
pub fn count() -> usize {
    let found = libraries::driver().and_then(|driver| {
        started(&driver)?;
        cards(&driver)
    });
    found.map_or(0, |cards| cards.len())
}

pub(super) fn blas_version(path: &Path) -> String {
    ffi::blas_version(path).map_or_else(
        || "unknown".into(),
        |v| {
            // 12.x writes 120803, 13.x 130100.
            format!("{}.{}.{}", v / 10_000, v / 100 % 100, v % 100)
        },
    )
}

pub(super) fn started(driver: &Driver) -> Result<()> {
    // SAFETY: it takes flags, of which there are none.
    check(driver, "cuInit", unsafe { (driver.init)(0) })
}

pub(super) fn version_of(driver: &Driver) -> String {
    let mut version: c_int = 0;
    // SAFETY: the number is written.
    unsafe { (driver.version)(&mut version) };
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

pub(super) fn cards(driver: &Driver) -> Result<Vec<Card>> {
    let mut count: c_int = 0;
    // SAFETY: the number is written.
    check(driver, "cuDeviceGetCount", unsafe { (driver.count)(&mut count) })?;
    (0..count).map(|ordinal| card(driver, ordinal)).collect()
}

fn card(driver: &Driver, ordinal: c_int) -> Result<Card> {
    let (mut device, mut memory, mut name) = (0, 0, [0 as c_char; 128]);
    // SAFETY: the device is written.
    check(driver, "cuDeviceGet", unsafe { (driver.device)(&mut device, ordinal) })?;
    // SAFETY: the name is written, with a zero at its end.
    check(driver, "cuDeviceGetName", unsafe { (driver.device_name)(name.as_mut_ptr(), 127, device) })?;
    // SAFETY: the size is written.
    check(driver, "cuDeviceTotalMem", unsafe { (driver.device_memory)(&mut memory, device) })?;
    let attribute = |which: c_int| -> Result<c_int> {
        let mut value = 0;
        // SAFETY: the value is written.
        check(driver, "cuDeviceGetAttribute", unsafe { (driver.attribute)(&mut value, which, device) })?;
        Ok(value)
    };
    let capability = (attribute(CAPABILITY[0])?, attribute(CAPABILITY[1])?);
    // SAFETY: the driver wrote a string into a larger buffer of zeros.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
    Ok(Card { ordinal: ordinal as usize, name, capability, memory })
}

pub(super) fn check(driver: &Driver, what: &str, status: Status) -> Result<()> {
    if status == 0 {
        return Ok(());
    }
    let mut name = ptr::null();
    // SAFETY: the driver points to a static string, or to nothing.
    let name = unsafe {
        (driver.error_name)(status, &mut name);
        if name.is_null() { "unknown".into() } else { CStr::from_ptr(name).to_string_lossy().into_owned() }
    };
    Err(Error::Device(format!("{what} failed on the GPU: {name} ({status})")))
}
