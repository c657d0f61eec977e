/** Imported before anything else: libuv reads the size of its thread pool when the first thread is needed, and never again. */
process.env.UV_THREADPOOL_SIZE ??= '32'
