/* file.h - whole files. */
#ifndef KV_COMMON_FILE_H
#define KV_COMMON_FILE_H

#include "common/status.h"

KV_EXTERN_C_BEGIN

/* Reads a regular file of at most max bytes. The caller frees *out. ERR_IO, ERR_UNSUPPORTED (too
 * large), ERR_NOMEM. */
kv_status kv_file_read(const char *path, size_t max, char **out, size_t *n);

/* Writes beside the place and renames: readers see the old file or the new one. 1; or 0 with errno.
 */
int kv_file_replace(const char *path, const void *p, size_t n);

/* Makes a folder unless it is there. ERR_IO for a place where there can be none, a file, or one that cannot be written. */
kv_status kv_file_folder(const char *path);

/* ERR_IO with the reason of errno: "PATH: cannot DOING: why". */
kv_status kv_file_error(const char *path, const char *doing);

KV_EXTERN_C_END

#endif
