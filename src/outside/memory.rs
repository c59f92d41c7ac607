//! Memory that was freed, back to the system.

/// Gives back what the allocator keeps of freed memory.
///
/// glibc gives back by itself what is free at the end of a heap only: days that newer data replace lie in front of those,
/// and would stay resident after they were freed. Other allocators have no such call. It takes a millisecond or some, in
/// which threads that allocate wait.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "a call of the C library that takes no pointer and nothing safe wraps")]
pub fn give_back_memory() {
    // SAFETY: the function has no preconditions, and takes the allocator's own locks.
    unsafe { libc::malloc_trim(0) };
}

/// Gives back what the allocator keeps of freed memory, where there is a call for that: here there is none.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn give_back_memory() {}
