//! Vectors of the processor's widest registers, for the kernels that keep sums in registers.
//!
//! Loops over slices are left to the compiler ([`vectorized!`](crate::cpu::vectorized)). A register tile is not: it
//! is fast only when every sum of it stays in a register, which this spells out. [`with_widest!`] compiles a function
//! for AVX-512, for AVX2 and for any processor, and picks at run time.

use crate::real::Real;

/// The vectors of one instruction set. All functions need a processor that has it.
pub(crate) trait Simd<T>: 'static {
    /// A register.
    type V: Copy;
    /// Its number of elements.
    const LANES: usize;
    /// Rows of a register tile that is three vectors wide: with its operands it fills the registers.
    const ROWS: usize;
    /// All lanes `value`.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn splat(value: T) -> Self::V;
    /// `LANES` elements from `from`, at any alignment.
    ///
    /// # Safety
    /// The processor has the instruction set and the elements may be read.
    unsafe fn load(from: *const T) -> Self::V;
    /// `LANES` elements to `to`, at any alignment.
    ///
    /// # Safety
    /// The processor has the instruction set and the elements may be written.
    unsafe fn store(to: *mut T, v: Self::V);
    /// a·b + c.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// a + b.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    /// a − b.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
}

/// The sum of the lanes, in their order.
///
/// # Safety
/// The processor has the instruction set.
#[inline(always)]
pub(crate) unsafe fn sum_of_lanes<T: Real, S: Simd<T>>(v: S::V) -> T {
    let mut lanes = [T::ZERO; 16];
    // SAFETY: no register has more than 16 lanes; the instruction set is the caller's promise.
    unsafe { S::store(lanes.as_mut_ptr(), v) };
    // Halves onto halves: four additions deep instead of sixteen.
    let mut width = S::LANES;
    while width > 1 {
        width /= 2;
        for i in 0..width {
            let other = lanes[i + width];
            lanes[i] += other;
        }
    }
    lanes[0]
}

/// Vectors for any processor: four elements, which compilers map to whatever there is.
#[derive(Debug)]
pub(crate) struct Portable;

impl<T: Real> Simd<T> for Portable {
    type V = [T; 4];
    const LANES: usize = 4;
    const ROWS: usize = 4;

    #[inline(always)]
    // SAFETY: nothing is asked of the processor.
    unsafe fn splat(value: T) -> [T; 4] {
        [value; 4]
    }

    #[inline(always)]
    // SAFETY: four elements may be read, as the caller promises.
    unsafe fn load(from: *const T) -> [T; 4] {
        // SAFETY: as above; an array has its element's alignment.
        unsafe { *from.cast() }
    }

    #[inline(always)]
    // SAFETY: four elements may be written, as the caller promises.
    unsafe fn store(to: *mut T, v: [T; 4]) {
        // SAFETY: as above; an array has its element's alignment.
        unsafe { *to.cast() = v }
    }

    #[inline(always)]
    // SAFETY: nothing is asked of the processor.
    unsafe fn mul_add(a: [T; 4], b: [T; 4], c: [T; 4]) -> [T; 4] {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }

    #[inline(always)]
    // SAFETY: nothing is asked of the processor.
    unsafe fn add(a: [T; 4], b: [T; 4]) -> [T; 4] {
        std::array::from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    // SAFETY: nothing is asked of the processor.
    unsafe fn sub(a: [T; 4], b: [T; 4]) -> [T; 4] {
        std::array::from_fn(|i| a[i] - b[i])
    }
}

/// Implements [`Simd`] by intrinsics.
#[cfg(target_arch = "x86_64")]
macro_rules! x86 {
    ($name:ident, $t:ty, $v:ident, $lanes:literal, $rows:literal, $splat:ident, $load:ident, $store:ident, $mul_add:ident, $add:ident, $sub:ident) => {
        impl Simd<$t> for $name {
            type V = std::arch::x86_64::$v;
            const LANES: usize = $lanes;
            const ROWS: usize = $rows;

            #[inline(always)]
            // SAFETY: the caller promises the instruction set.
            unsafe fn splat(value: $t) -> Self::V {
                // SAFETY: as above.
                unsafe { std::arch::x86_64::$splat(value) }
            }

            #[inline(always)]
            // SAFETY: the caller promises the instruction set and the elements.
            unsafe fn load(from: *const $t) -> Self::V {
                // SAFETY: as above; this load takes any alignment.
                unsafe { std::arch::x86_64::$load(from) }
            }

            #[inline(always)]
            // SAFETY: the caller promises the instruction set and the elements.
            unsafe fn store(to: *mut $t, v: Self::V) {
                // SAFETY: as above; this store takes any alignment.
                unsafe { std::arch::x86_64::$store(to, v) }
            }

            #[inline(always)]
            // SAFETY: the caller promises the instruction set.
            unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
                // SAFETY: as above.
                unsafe { std::arch::x86_64::$mul_add(a, b, c) }
            }

            #[inline(always)]
            // SAFETY: the caller promises the instruction set.
            unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
                // SAFETY: as above.
                unsafe { std::arch::x86_64::$add(a, b) }
            }

            #[inline(always)]
            // SAFETY: the caller promises the instruction set.
            unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
                // SAFETY: as above.
                unsafe { std::arch::x86_64::$sub(a, b) }
            }
        }
    };
}

/// 512-bit registers, 32 of them.
#[cfg(target_arch = "x86_64")]
#[derive(Debug)]
pub(crate) struct Avx512;

/// 256-bit registers, 16 of them, with fused multiply-add.
#[cfg(target_arch = "x86_64")]
#[derive(Debug)]
pub(crate) struct Avx2;

#[cfg(target_arch = "x86_64")]
x86!(
    Avx512,
    f32,
    __m512,
    16,
    8,
    _mm512_set1_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_fmadd_ps,
    _mm512_add_ps,
    _mm512_sub_ps
);
#[cfg(target_arch = "x86_64")]
x86!(
    Avx512,
    f64,
    __m512d,
    8,
    8,
    _mm512_set1_pd,
    _mm512_loadu_pd,
    _mm512_storeu_pd,
    _mm512_fmadd_pd,
    _mm512_add_pd,
    _mm512_sub_pd
);
#[cfg(target_arch = "x86_64")]
x86!(
    Avx2,
    f32,
    __m256,
    8,
    4,
    _mm256_set1_ps,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_fmadd_ps,
    _mm256_add_ps,
    _mm256_sub_ps
);
#[cfg(target_arch = "x86_64")]
x86!(
    Avx2,
    f64,
    __m256d,
    4,
    4,
    _mm256_set1_pd,
    _mm256_loadu_pd,
    _mm256_storeu_pd,
    _mm256_fmadd_pd,
    _mm256_add_pd,
    _mm256_sub_pd
);

/// An element type with vectors in every instruction set.
#[cfg(target_arch = "x86_64")]
pub(crate) trait Vectors: Real {
    /// With AVX-512.
    type Widest: Simd<Self>;
    /// With AVX2 and fused multiply-add.
    type Wide: Simd<Self>;
}

#[cfg(target_arch = "x86_64")]
impl Vectors for f32 {
    type Widest = Avx512;
    type Wide = Avx2;
}

#[cfg(target_arch = "x86_64")]
impl Vectors for f64 {
    type Widest = Avx512;
    type Wide = Avx2;
}

/// An element type with vectors in every instruction set.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) trait Vectors: Real {}

#[cfg(not(target_arch = "x86_64"))]
impl<T: Real> Vectors for T {}

/// How wide the registers are that a function is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(crate) enum Width {
    /// Any processor's.
    #[cfg(test)]
    Any,
    /// AVX2's.
    Wide,
    /// AVX-512's.
    Widest,
}

/// Whether a thread may use registers so wide: always, except in tests of the other ways.
#[cfg(not(test))]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(crate) const fn allows(_: Width) -> bool {
    true
}

#[cfg(test)]
thread_local! {
    static WIDEST: std::cell::Cell<Width> = const { std::cell::Cell::new(Width::Widest) };
}

#[cfg(test)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(crate) fn allows(width: Width) -> bool {
    width <= WIDEST.get()
}

/// Runs `work` on one thread with registers no wider than `width`.
#[cfg(test)]
pub(crate) fn no_wider_than<R: Send>(width: Width, work: impl FnOnce() -> R + Send) -> R {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    pool.install(|| {
        WIDEST.set(width);
        work()
    })
}

/// Defines a function over an instruction set `$s`, compiled for each and picked at run time.
macro_rules! with_widest {
    ($(#[$meta:meta])* fn $name:ident<$t:ident, $s:ident>($($arg:ident: $type:ty),* $(,)?) $(-> $result:ty)?
        $body:block) => {
        $(#[$meta])*
        pub(crate) fn $name<$t: crate::simd::Vectors>($($arg: $type),*) $(-> $result)? {
            #[allow(clippy::too_many_arguments, reason = "as many as the function has that this defines")]
            #[inline(always)]
            // SAFETY: called only below, where the processor has the instruction set.
            unsafe fn body<$t: crate::simd::Vectors, $s: crate::simd::Simd<$t>>($($arg: $type),*)
                $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[allow(clippy::too_many_arguments, reason = "as many as the function has that this defines")]
                #[target_feature(enable = "avx512f")]
                // SAFETY: called only where the processor has AVX-512.
                unsafe fn widest<$t: crate::simd::Vectors>($($arg: $type),*) $(-> $result)? {
                    // SAFETY: this function is compiled for it.
                    unsafe { body::<$t, $t::Widest>($($arg),*) }
                }
                #[allow(clippy::too_many_arguments, reason = "as many as the function has that this defines")]
                #[target_feature(enable = "avx2,fma")]
                // SAFETY: called only where the processor has AVX2 and FMA.
                unsafe fn wide<$t: crate::simd::Vectors>($($arg: $type),*) $(-> $result)? {
                    // SAFETY: this function is compiled for them.
                    unsafe { body::<$t, $t::Wide>($($arg),*) }
                }
                if crate::simd::allows(crate::simd::Width::Widest) && std::arch::is_x86_feature_detected!("avx512f") {
                    // SAFETY: the processor has it.
                    return unsafe { widest::<$t>($($arg),*) };
                }
                if crate::simd::allows(crate::simd::Width::Wide)
                    && std::arch::is_x86_feature_detected!("avx2")
                    && std::arch::is_x86_feature_detected!("fma")
                {
                    // SAFETY: the processor has both.
                    return unsafe { wide::<$t>($($arg),*) };
                }
            }
            // SAFETY: this way asks nothing of the processor.
            unsafe { body::<$t, crate::simd::Portable>($($arg),*) }
        }
    };
}
pub(crate) use with_widest;
