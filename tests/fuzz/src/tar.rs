//! Small tars to start from.

const BLOCK: usize = 512;

/// The bytes with a right checksum in every block that has the magic of a header: a fuzzer does not find one.
pub(crate) fn with_checksums(data: &[u8]) -> Vec<u8> {
    let mut bytes = data.to_vec();
    for block in bytes.chunks_exact_mut(BLOCK) {
        if &block[257..262] == b"ustar" {
            sum(block);
        }
    }
    bytes
}

fn sum(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Appends an entry.
pub(crate) fn entry(tar: &mut Vec<u8>, kind: u8, name: &str, link: &str, data: &[u8]) {
    let mut block = [0; BLOCK];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[157..157 + link.len()].copy_from_slice(link.as_bytes());
    block[100..107].copy_from_slice(if kind == b'5' { b"0000755" } else { b"0000644" });
    block[124..135].copy_from_slice(format!("{:011o}", data.len()).as_bytes());
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    sum(&mut block);
    tar.extend(block);
    tar.extend(data);
    tar.resize(tar.len().next_multiple_of(BLOCK), 0);
}

/// A layer with a bit of everything below which another one goes.
pub(crate) fn base_layer() -> Vec<u8> {
    let mut tar = Vec::new();
    entry(&mut tar, b'5', "d", "", b"");
    entry(&mut tar, b'0', "d/f", "", b"lower");
    entry(&mut tar, b'2', "l", "d", b"");
    entry(&mut tar, b'2', "out", "../../canary", b"");
    entry(&mut tar, b'2', "loop", "loop", b"");
    entry(&mut tar, b'0', "f", "", b"file");
    entry(&mut tar, b'1', "h", "f", b"");
    entry(&mut tar, b'6', "p", "", b"");
    tar.resize(tar.len() + 2 * BLOCK, 0);
    tar
}
