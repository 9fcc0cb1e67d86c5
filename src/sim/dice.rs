//! Chance that is the same on every machine: what a simulation makes up follows from its seed.

/// A small generator of its own (SplitMix64).
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    /// One that begins with `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number below `below`.
    pub const fn roll(&mut self, below: u64) -> u64 {
        let next = self.next();
        if below == 0 { 0 } else { next % below }
    }

    /// A UUID, as `ast_uuid` and pjlib write it.
    pub fn uuid(&mut self) -> String {
        let (high, low) = (self.next(), self.next());
        // RFC 9562 section 5.4: version 4, variant 10.
        let (high, low) = ((high & !0xf000) | 0x4000, (low & !(0b11 << 62)) | (0b10 << 62));
        let (time, version) = (high >> 32, high & 0xffff_ffff);
        format!(
            "{time:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            version >> 16,
            version & 0xffff,
            low >> 48,
            low & 0xffff_ffff_ffff
        )
    }

    /// Sixteen hexadecimal digits.
    pub fn hex(&mut self) -> String {
        format!("{:016x}", self.next())
    }

    /// Lower-case letters.
    pub fn letters(&mut self, count: usize) -> String {
        (0..count).filter_map(|_| char::from_digit(10 + u32::try_from(self.roll(26)).unwrap_or(0), 36)).collect()
    }

    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_up_the_same_things_in_the_shape_they_have() {
        let (mut one, mut other) = (Dice::new(7), Dice::new(7));
        let uuid = one.uuid();
        assert_eq!(uuid, other.uuid());
        let lengths: Vec<usize> = uuid.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
        assert!(uuid[14..].starts_with('4') && matches!(&uuid[19..20], "8" | "9" | "a" | "b"), "{uuid}");
        let letters = one.letters(7);
        assert!(letters.len() == 7 && letters.bytes().all(|byte| byte.is_ascii_lowercase()), "{letters}");
        assert!(one.hex().len() == 16 && one.roll(3) < 3 && one.roll(0) == 0);
    }
}
