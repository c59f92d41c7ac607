//! The gzip container around text that stays as it is: deflate's stored blocks.
//!
//! Readers of `.csv.gz` get a valid file, and the generator needs no compressor whose output could
//! change with its version.
//!
//! Source: RFC 1951 section 3.2.4, RFC 1952.

/// Longest stored block, by its 16-bit length.
const BLOCK_BYTES: usize = 65_535;

/// `text` as a gzip file.
pub(super) fn stored(text: &[u8]) -> Vec<u8> {
    // Magic, deflate, no flags, no time, no hint, unknown system.
    let mut file = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let mut blocks = text.chunks(BLOCK_BYTES).peekable();
    if blocks.peek().is_none() {
        file.extend([1, 0, 0, 255, 255]);
    }
    while let Some(block) = blocks.next() {
        let length = block.len() as u16;
        file.push(u8::from(blocks.peek().is_none()));
        file.extend(length.to_le_bytes());
        file.extend((!length).to_le_bytes());
        file.extend(block);
    }
    file.extend(crc32(text).to_le_bytes());
    file.extend((text.len() as u32).to_le_bytes());
    file
}

fn crc32(bytes: &[u8]) -> u32 {
    let state = bytes.iter().fold(!0, |state: u32, &byte| {
        (0..8).fold(state ^ u32::from(byte), |state, _| {
            if state & 1 == 1 { (state >> 1) ^ 0xedb8_8320 } else { state >> 1 }
        })
    });
    !state
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_is_the_one_of_the_standard() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }
}
