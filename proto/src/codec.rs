//! The codec of the server traits: prost's, with buffers sized for many quiet streams.

use std::marker::PhantomData;

use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, EncodeBuf, Encoder};
use tonic_prost::{ProstCodec, ProstDecoder};

/// Encodes `T` and decodes `U` as prost does. tonic's own default begins every stream with 8 KiB
/// for each direction, which a hundred thousand idle watch streams would hold for nothing.
#[derive(Debug)]
pub struct ServerCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for ServerCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for ServerCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ServerEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ServerEncoder(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(BUFFER_BYTES, CHUNK_BYTES))
    }
}

/// Encodes as prost does, into room that is made at once: a long list would otherwise be copied
/// at each doubling of the buffer, and take twice its size at the last one.
#[derive(Debug)]
pub struct ServerEncoder<T>(PhantomData<T>);

impl<T: Message> Encoder for ServerEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(item.encoded_len());
        item.encode_raw(buffer);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER_BYTES, CHUNK_BYTES)
    }
}

/// First size of a buffer; it grows with what passes through. A common put fits.
const BUFFER_BYTES: usize = 1024;

/// Messages that are ready are sent together up to this size: two full HTTP/2 frames.
const CHUNK_BYTES: usize = 32 * 1024;
