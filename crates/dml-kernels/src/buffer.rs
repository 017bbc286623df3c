//! Buffers that outlive a call: taken by the threads of a forward pass, given back when its graph is dropped, and
//! taken again by the next without being allocated or cleared.

use std::any::Any;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Result, bail};

use crate::real::Real;

/// Bytes that lie unused at most.
const KEPT_BYTES: usize = 64 << 20;
/// Smaller ones are not worth a lock.
const LEAST: usize = 1024;

static FREE: Mutex<Vec<(usize, Box<dyn Any + Send>)>> = Mutex::new(Vec::new());

/// A slice that goes back to the process when dropped.
#[derive(Debug)]
pub(crate) struct Buffer<T: Real>(Vec<T>);

impl<T: Real> Buffer<T> {
    /// So many elements of any value: whoever takes them writes before reading.
    pub(crate) fn stale(len: usize) -> Self {
        let mut values = if len < LEAST { Vec::new() } else { Self::take(len) };
        values.truncate(len);
        values.resize(len, T::ZERO);
        Self(values)
    }

    /// So many zeros.
    pub(crate) fn zeros(len: usize) -> Self {
        let mut buffer = Self::stale(len);
        buffer.fill(T::ZERO);
        buffer
    }

    /// A copy.
    pub(crate) fn copy_of(values: &[T]) -> Self {
        let mut buffer = Self::stale(values.len());
        buffer.copy_from_slice(values);
        buffer
    }

    /// A kept buffer of at least `len` elements and at most twice as many, the smallest.
    fn take(len: usize) -> Vec<T> {
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        let lengths =
            free.iter().enumerate().filter_map(|(i, (_, b))| Some((i, b.downcast_ref::<Vec<T>>()?.len())));
        let fitting = lengths.filter(|&(_, held)| (len..=2 * len).contains(&held));
        let Some((at, _)) = fitting.min_by_key(|&(_, held)| held) else { return Vec::new() };
        let (_, buffer) = free.swap_remove(at);
        buffer.downcast().map_or_else(|_| Vec::new(), |buffer| *buffer)
    }
}

impl<T: Real> Drop for Buffer<T> {
    fn drop(&mut self) {
        let values = std::mem::take(&mut self.0);
        if values.len() < LEAST {
            return;
        }
        let bytes = values.capacity() * size_of::<T>();
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        let held = |free: &[(usize, _)]| free.iter().map(|(bytes, _)| bytes).sum::<usize>();
        if bytes > KEPT_BYTES {
            return;
        }
        // Sizes that nobody asks for any more make room.
        while held(&free) + bytes > KEPT_BYTES {
            free.remove(0);
        }
        free.push((bytes, Box::new(values)));
    }
}

impl<T: Real> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T: Real> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.0
    }
}

/// A buffer of f32 or f64, for structures that hold either.
pub(crate) struct Table {
    dtype: DType,
    values: Box<dyn Any + Send + Sync>,
}

impl Table {
    pub(crate) fn new<T: Real>(values: Buffer<T>) -> Self {
        let dtype = if size_of::<T>() == size_of::<f64>() { DType::F64 } else { DType::F32 };
        Self { dtype, values: Box::new(values) }
    }

    /// f32 or f64.
    pub(crate) fn dtype(&self) -> DType {
        self.dtype
    }

    /// The elements, where they are of this type.
    pub(crate) fn slice<T: Real>(&self) -> Result<&[T]> {
        match self.values.downcast_ref::<Buffer<T>>() {
            Some(values) => Ok(values),
            None => bail!("a table of {:?} was read as another type", self.dtype),
        }
    }

    /// As [`slice`](Self::slice), to write.
    pub(crate) fn slice_mut<T: Real>(&mut self) -> Result<&mut [T]> {
        match self.values.downcast_mut::<Buffer<T>>() {
            Some(values) => Ok(values),
            None => bail!("a table of {:?} was written as another type", self.dtype),
        }
    }
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Table({:?})", self.dtype)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_knows_its_type() {
        let mut table = Table::new(Buffer::copy_of(&[1f64, 2.0]));
        assert_eq!((table.dtype(), table.slice::<f64>().unwrap()), (DType::F64, &[1.0, 2.0][..]));
        table.slice_mut::<f64>().unwrap()[0] = 3.0;
        assert_eq!(table.slice::<f64>().unwrap(), [3.0, 2.0]);
        let message = table.slice::<f32>().unwrap_err().to_string();
        assert!(message.contains("a table of F64 was read as another type"), "{message}");
    }

    #[test]
    fn a_buffer_is_taken_again_by_another_thread() {
        // A length that no other test of this process asks for.
        const LEN: usize = 123_457;
        let mut first = Buffer::<f64>::stale(LEN);
        first.fill(2.0);
        let at = first.as_ptr() as usize;
        drop(first);
        let taken = std::thread::spawn(move || {
            let again = Buffer::<f64>::stale(LEN - 3);
            (again.as_ptr() as usize, again.len(), again[5])
        });
        assert_eq!(taken.join().unwrap(), (at, LEN - 3, 2.0));
        assert_eq!(Buffer::<f32>::stale(LEN).len(), LEN);
    }
}
