//! libvirt calls that the crate `virt` (0.5.0) lacks or gets wrong: its bulk statistics cannot be
//! read and leak, its domain state does not show whether the call failed, and neither does its
//! block info, which then is uninitialized memory.
//!
//! All functions return plain values.

#![expect(unsafe_code, reason = "these calls have no safe wrapper")]

use std::{
    ffi::{CStr, CString, c_char},
    ptr, slice,
};

use ::virt::{domain::Domain, error::Error, sys};

use crate::sources::libvirt::params::TypedParamValue;

/// A list of records allocated by libvirt.
struct StatsRecordList {
    first: *mut sys::virDomainStatsRecordPtr,
    count: usize,
}

impl Drop for StatsRecordList {
    fn drop(&mut self) {
        // SAFETY: the list comes from libvirt, ends in a null pointer, and is freed once. A null
        // pointer is ignored.
        unsafe { sys::virDomainStatsRecordListFree(self.first) };
    }
}

/// Returns the statistics of one domain by group (`virDomainListGetStats`).
pub(super) fn stats(
    domain: &Domain,
    groups: u32,
    flags: u32,
) -> Result<Vec<(String, TypedParamValue)>, Error> {
    // SAFETY: the pointer is not used beyond the borrow of the domain.
    let mut domains = [unsafe { domain.as_ptr() }, ptr::null_mut()];
    let mut first = ptr::null_mut();
    // SAFETY: the array ends in a null pointer, and libvirt writes the address of its list to a
    // valid location.
    let count =
        unsafe { sys::virDomainListGetStats(domains.as_mut_ptr(), groups, &raw mut first, flags) };
    let count = usize::try_from(count).map_err(|_| Error::last_error())?;
    let records = StatsRecordList { first, count };
    if records.first.is_null() {
        return Ok(vec![]);
    }
    // SAFETY: libvirt returned this number of records, and they are freed below.
    let all = unsafe { slice::from_raw_parts(records.first, records.count) };
    let mut named = vec![];
    for record in all.iter().filter(|record| !record.is_null()) {
        // SAFETY: each pointer refers to a record written by libvirt.
        let record = unsafe { &**record };
        let count = usize::try_from(record.nparams).unwrap_or(0);
        if record.params.is_null() {
            continue;
        }
        // SAFETY: libvirt wrote this number of parameters; they live as long as their record.
        let params = unsafe { slice::from_raw_parts(record.params, count) };
        named.extend(
            params
                .iter()
                .filter_map(|param| Some((name(param), value(param)?))),
        );
    }
    Ok(named)
}

/// Returns a parameter's name, which fills its field or ends in NUL.
fn name(param: &sys::virTypedParameter) -> String {
    let bytes = param
        .field
        .iter()
        .map(|byte| u8::from_ne_bytes(byte.to_ne_bytes()));
    let bytes: Vec<_> = bytes.take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn value(param: &sys::virTypedParameter) -> Option<TypedParamValue> {
    let value = &param.value;
    let kind = u32::try_from(param.type_).ok()?;
    // SAFETY: the type determines which field of the union libvirt wrote; a string ends in NUL.
    unsafe {
        Some(match kind {
            sys::VIR_TYPED_PARAM_INT => TypedParamValue::Int(value.i.into()),
            sys::VIR_TYPED_PARAM_UINT => TypedParamValue::Unsigned(value.ui.into()),
            sys::VIR_TYPED_PARAM_LLONG => TypedParamValue::Int(value.l),
            sys::VIR_TYPED_PARAM_ULLONG => TypedParamValue::Unsigned(value.ul),
            sys::VIR_TYPED_PARAM_DOUBLE => TypedParamValue::Float(value.d),
            sys::VIR_TYPED_PARAM_BOOLEAN => TypedParamValue::Bool(value.b != 0),
            sys::VIR_TYPED_PARAM_STRING if !value.s.is_null() => {
                TypedParamValue::Text(text(value.s))
            }
            _ => return None,
        })
    }
}

/// # Safety
///
/// The bytes must end in NUL.
unsafe fn text(bytes: *const c_char) -> String {
    // SAFETY: see the function's contract.
    let text = unsafe { CStr::from_ptr(bytes) };
    text.to_string_lossy().into_owned()
}

/// Returns a domain's state and reason as numbers (`virDomainGetState`).
pub(super) fn state(domain: &Domain) -> Result<(i32, i32), Error> {
    let (mut state, mut reason) = (0, 0);
    // SAFETY: the domain is valid while borrowed, and libvirt writes to valid integers.
    let result =
        unsafe { sys::virDomainGetState(domain.as_ptr(), &raw mut state, &raw mut reason, 0) };
    if result < 0 {
        return Err(Error::last_error());
    }
    Ok((state, reason))
}

/// Returns a disk's allocation, capacity and physical size in bytes (`virDomainGetBlockInfo`).
pub(super) fn block_info(domain: &Domain, disk: &str) -> Result<[u64; 3], Error> {
    let disk = CString::new(disk)?;
    let mut sizes = sys::virDomainBlockInfo {
        capacity: 0,
        allocation: 0,
        physical: 0,
    };
    // SAFETY: the domain and the name are valid while borrowed, and libvirt writes to a valid
    // struct.
    let result =
        unsafe { sys::virDomainGetBlockInfo(domain.as_ptr(), disk.as_ptr(), &raw mut sizes, 0) };
    if result < 0 {
        return Err(Error::last_error());
    }
    Ok([sizes.allocation, sizes.capacity, sizes.physical])
}
