//! The calls of libvirt's that the crate `virt` (0.5.0) lacks or gets wrong: its statistics
//! of all domains cannot be read and leak, its state of a domain does not say whether the
//! call failed, and neither does its size of a disk, which then is memory that nobody
//! wrote.
//!
//! Everything in here returns plain values.

#![expect(unsafe_code, reason = "there is no safe way to make these calls")]

use std::{
    ffi::{CStr, CString, c_char},
    ptr, slice,
};

use ::virt::{domain::Domain, error::Error, sys};

use crate::sources::libvirt::params::TypedParamValue;

/// libvirt's records, which it allocated.
struct StatsRecordList {
    first: *mut sys::virDomainStatsRecordPtr,
    count: usize,
}

impl Drop for StatsRecordList {
    fn drop(&mut self) {
        // SAFETY: the list is libvirt's, ends in a null pointer, and is freed once. A null
        // pointer is passed over.
        unsafe { sys::virDomainStatsRecordListFree(self.first) };
    }
}

/// The groups of statistics of one domain (`virDomainListGetStats`).
pub(super) fn stats(
    domain: &Domain,
    groups: u32,
    flags: u32,
) -> Result<Vec<(String, TypedParamValue)>, Error> {
    // SAFETY: the pointer is not used any longer than the domain is borrowed.
    let mut domains = [unsafe { domain.as_ptr() }, ptr::null_mut()];
    let mut first = ptr::null_mut();
    // SAFETY: the array ends in a null pointer, and libvirt writes the address of its list
    // to where there is room for it.
    let count =
        unsafe { sys::virDomainListGetStats(domains.as_mut_ptr(), groups, &raw mut first, flags) };
    let count = usize::try_from(count).map_err(|_| Error::last_error())?;
    let records = StatsRecordList { first, count };
    if records.first.is_null() {
        return Ok(vec![]);
    }
    // SAFETY: there are as many as libvirt said, until they are freed below.
    let all = unsafe { slice::from_raw_parts(records.first, records.count) };
    let mut named = vec![];
    for record in all.iter().filter(|record| !record.is_null()) {
        // SAFETY: libvirt wrote a record to where it points.
        let record = unsafe { &**record };
        let count = usize::try_from(record.nparams).unwrap_or(0);
        if record.params.is_null() {
            continue;
        }
        // SAFETY: there are as many as libvirt said, as long as their record is there.
        let params = unsafe { slice::from_raw_parts(record.params, count) };
        named.extend(
            params
                .iter()
                .filter_map(|param| Some((name(param), value(param)?))),
        );
    }
    Ok(named)
}

/// A parameter's name, which is as long as its field or ends in a zero.
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
    // SAFETY: the type says which of them libvirt wrote; a text ends in a zero.
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
/// The bytes end in a zero.
unsafe fn text(bytes: *const c_char) -> String {
    // SAFETY: as said above.
    let text = unsafe { CStr::from_ptr(bytes) };
    text.to_string_lossy().into_owned()
}

/// What a domain is doing and why, as numbers (`virDomainGetState`).
pub(super) fn state(domain: &Domain) -> Result<(i32, i32), Error> {
    let (mut state, mut reason) = (0, 0);
    // SAFETY: the domain is there as long as it is borrowed, and libvirt writes numbers to
    // where there are numbers.
    let result =
        unsafe { sys::virDomainGetState(domain.as_ptr(), &raw mut state, &raw mut reason, 0) };
    if result < 0 {
        return Err(Error::last_error());
    }
    Ok((state, reason))
}

/// A disk's allocation, capacity and physical size in bytes (`virDomainGetBlockInfo`).
pub(super) fn block_info(domain: &Domain, disk: &str) -> Result<[u64; 3], Error> {
    let disk = CString::new(disk)?;
    let mut sizes = sys::virDomainBlockInfo {
        capacity: 0,
        allocation: 0,
        physical: 0,
    };
    // SAFETY: the domain and the name are there as long as they are borrowed, and libvirt
    // writes sizes to where there are some.
    let result =
        unsafe { sys::virDomainGetBlockInfo(domain.as_ptr(), disk.as_ptr(), &raw mut sizes, 0) };
    if result < 0 {
        return Err(Error::last_error());
    }
    Ok([sizes.allocation, sizes.capacity, sizes.physical])
}
