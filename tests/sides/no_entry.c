/* A library, but no side. */
int kv_answer(void);
int kv_answer(void)
{
    return 42;
}
